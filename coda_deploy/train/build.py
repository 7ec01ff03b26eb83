"""From a configuration and a VAE to a fresh tokenizer."""

from __future__ import annotations

import dataclasses
import os
from typing import cast

import torch
from torch import nn

from coda_deploy.errors import ConfigError
from coda_deploy.official import find_ldm, has_statistics, read_ldm
from coda_deploy.tokenizer import CodaTokenizer, LoraConfig
from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.origin import source_name
from coda_deploy.tokenizer.python_module import is_python
from coda_deploy.tokenizer.vae import Say, load_vae
from coda_deploy.train.config import TrainConfig


def build_tokenizer(
    config: TrainConfig, vae: nn.Module | str | os.PathLike[str] | None = None, say: Say = lambda text: None
) -> CodaTokenizer:
    """Build a tokenizer to train: the VAE as it is, LoRA at zero, a quantizer drawn from the configuration's seed.

    ``vae`` (what `open_vae` takes) takes the place of the configuration's. Raises ``ConfigError`` when there is none,
    or when it does not fit the configuration, and ``WeightsError`` for a file that is no LDM autoencoder's. ``say`` is
    told what was found in another place than expected.
    """
    if config.tokenizer.init:
        return _from_tokenizer(config)
    where = config.tokenizer.vae if vae is None else vae
    if isinstance(where, str) and not where:
        raise ConfigError("no VAE to adapt: give --vae FOLDER_OR_HUB_ID, or set tokenizer.vae in the configuration")
    if vae is None and is_python(where):
        raise ConfigError(
            f"the configuration's tokenizer.vae is {where}, code that would be run: give it yourself, --vae {where}"
        )
    asked, loaded = config.tokenizer, open_vae(where, config.tokenizer.latent_scale is not None, say)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optim.seed)
        made = CodaTokenizer.from_vae(
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
    if made.origin is not None:
        source = None if isinstance(where, nn.Module) else source_name(where)
        made.origin = dataclasses.replace(made.origin, source=source)
    return made


def open_vae(where: nn.Module | str | os.PathLike[str], has_scale: bool, say: Say = lambda text: None) -> nn.Module:
    """Load a VAE of whatever form: what `load_vae` takes, or an LDM autoencoder's file, or a folder of that one file.

    A module is returned as it is.

    Raises as both do, and ``ConfigError`` for a file that does not say how its latent is scaled, unless ``has_scale``.
    """
    if isinstance(where, nn.Module):
        return where
    file = None if is_python(where) else find_ldm(where)
    if file is None:
        return load_vae(where, say)
    loaded = cast(nn.Module, read_ldm(file))
    if not has_statistics(loaded) and not has_scale:
        raise ConfigError(
            f"{file} holds weights alone, and does not say how its latent is scaled: give tokenizer.latent_scale (and "
            "latent_shift), numbers or one for each channel, as its authors publish them, or 1 divided by the latent's "
            "standard deviation; 1 leaves it as it is"
        )
    return loaded


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
