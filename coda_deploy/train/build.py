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
    if config.tokenizer.init:
        return _from_tokenizer(config)
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
    asked = config.tokenizer
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


def _from_tokenizer(config: TrainConfig) -> CodaTokenizer:
    """Load ``tokenizer.init`` for the size and schedule asked for. Raises ``ConfigError`` for other numbers."""
    asked = config.tokenizer
    loaded = CodaTokenizer.from_pretrained(asked.init)
    own, lora = loaded.config, loaded.config.lora
    pairs = {
        "vocab_size": (asked.vocab_size, own.vocab_size),
        "attention_dim": (asked.attention_dim, own.attention_dim),
        "norm": (asked.norm, own.norm),
        "lora_rank": (asked.lora_rank, 0 if lora is None else lora.rank),
        "latent_scale": (asked.latent_scale, own.latent_scale),
        "latent_shift": (asked.latent_shift, own.latent_shift),
    }
    for name, (wanted, found) in pairs.items():
        if wanted not in (None, found):
            raise ConfigError(
                f"tokenizer.{name} is {wanted}, and {asked.init} has {found}, which is kept: set tokenizer.{name}="
                f"{found}, or start from a VAE"
            )
    return loaded.at_size(asked.image_size, asked.scales or None)
