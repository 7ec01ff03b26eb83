"""A VAE's training configuration: one TOML file, read into frozen dataclasses with every key and value checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from coda_deploy.errors import ConfigError
from coda_deploy.train.sections import (
    AdamSection,
    Configuration,
    DataSection,
    ImageLossSection,
    SaveSection,
    named,
    read_toml,
)


@dataclass(frozen=True)
class VaeSection:
    """The network, under diffusers' names, and `image_size`, the side of the squares it is trained on, in pixels.

    Each level of `block_out_channels` after the first halves the sides: four levels are f8. The VAE takes any size
    afterwards.
    """

    image_size: int = 128
    block_out_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 1
    latent_channels: int = 16
    norm_num_groups: int = 4
    mid_block_add_attention: bool = False


@dataclass(frozen=True)
class VaeOptimSection(AdamSection):
    """From random weights: larger steps, a warm-up, and averages that forget sooner."""

    lr: float = 1e-3
    lr_warmup: int = 200
    final_lr: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 0.5
    ema: float = 0.998
    ema_start: float = 0.0


@dataclass(frozen=True)
class VaeLossSection(ImageLossSection):
    """With the posterior's divergence from a normal distribution, summed over the latent."""

    l1: float = 0.05
    lpips: float = 0.1
    gan: float = 0.0
    kl: float = 1e-6


@dataclass(frozen=True)
class VaeTrainConfig(Configuration):
    """Everything that decides the numbers of a VAE's training, but for the data."""

    vae: VaeSection = field(default_factory=VaeSection)
    data: DataSection = field(default_factory=DataSection)
    optim: VaeOptimSection = field(default_factory=VaeOptimSection)
    loss: VaeLossSection = field(default_factory=VaeLossSection)
    save: SaveSection = field(default_factory=SaveSection)

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        self.check_minimum("vae", 1, "image_size layers_per_block latent_channels norm_num_groups")
        self.check_minimum("loss", 0, "kl")
        self.check_shared()
        vae = self.vae
        if not vae.block_out_channels or min(vae.block_out_channels) < 1:
            raise ConfigError(f"vae.block_out_channels is {list(vae.block_out_channels)}, expected widths of 1 or more")
        for width in vae.block_out_channels:
            if width % vae.norm_num_groups:
                raise ConfigError(
                    f"vae.block_out_channels has {width}, which vae.norm_num_groups = {vae.norm_num_groups} does not "
                    "divide: choose widths that are multiples of it"
                )
        downsample = 2 ** (len(vae.block_out_channels) - 1)
        if vae.image_size % downsample:
            raise ConfigError(
                f"vae.image_size {vae.image_size} is not a multiple of {downsample}, by which the "
                f"{len(vae.block_out_channels)} levels of vae.block_out_channels downsample"
            )


def named_configs() -> list[str]:
    """Return the configurations that come with the package."""
    return named(__package__)


def read_config(name_or_path: str | Path, overrides: Iterable[str] = ()) -> VaeTrainConfig:
    """Read a ready configuration by name or a TOML file by path; ``overrides`` are ``section.key=value``, TOML values.

    Raises ``ConfigError``.
    """
    return read_toml(VaeTrainConfig, __package__, name_or_path, overrides)
