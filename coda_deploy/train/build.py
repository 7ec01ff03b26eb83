"""From a configuration and a VAE to a fresh tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import torch

from coda_deploy.errors import ConfigError
from coda_deploy.official import read_kl16
from coda_deploy.tokenizer import CodaTokenizer, LoraConfig
from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.vae import load_vae
from coda_deploy.train.config import TrainConfig
from coda_runtime.io.counts import count


def build_tokenizer(config: TrainConfig, vae: str | os.PathLike[str] | None = None) -> CodaTokenizer:
    """Build a tokenizer to train: the VAE as it is, LoRA at zero, a quantizer drawn from the configuration's seed.

    ``vae`` (a folder, a hub id, or MAR's ``kl16.safetensors``) takes the place of the configuration's. Raises
    ``ConfigError`` when there is none, or when it does not fit the configuration, and ``WeightsError`` for a file that
    is not MAR's.
    """
    where = vae or config.tokenizer.vae
    if not where:
        raise ConfigError("no VAE to adapt: give --vae FOLDER_OR_HUB_ID, or set tokenizer.vae in the configuration")
    # A file can only be MAR's, whose authors publish no diffusers folder.
    loaded = read_kl16(where) if Path(where).is_file() else load_vae(where)
    channels = (loaded.config.in_channels, loaded.config.out_channels)
    if channels != (3, 3):
        raise ConfigError(
            f"the VAE in {where} takes {count(channels[0], 'channel')} and gives {channels[1]}, expected 3: RGB"
        )
    asked, downsample = config.tokenizer, 2 ** (len(loaded.config.block_out_channels) - 1)
    if asked.image_size % downsample:
        # Said here already: without scales there would be no schedule to look for.
        raise ConfigError(f"tokenizer.image_size {asked.image_size} is not a multiple of {downsample}, the VAE's f")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optim.seed)
        return CodaTokenizer.from_vae(
            loaded,
            image_size=asked.image_size,
            vocab_size=asked.vocab_size,
            scales=asked.scales or None,
            variant=asked.variant,
            attention_dim=asked.attention_dim,
            norm=cast(NormType, asked.norm),
            lora=LoraConfig(asked.lora_rank, asked.lora_targets) if asked.lora_rank else None,
            latent_scale=asked.latent_scale,
            latent_shift=asked.latent_shift,
            license=asked.license or None,
        )
