"""A training configuration: one TOML file, read into frozen dataclasses with every key and value checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.config import NormType
from coda_deploy.train.sections import (
    AdamSection,
    Configuration,
    DataSection,
    ImageLossSection,
    SaveSection,
    named,
    read_toml,
)
from coda_runtime.format.sizes import Scales, Size, is_size, plain, read_scales, read_size
from coda_runtime.io.json_fields import describe

_LIMIT = 2**31


@dataclass(frozen=True)
class TokenizerSection:
    """What is trained; the defaults of `scales`, `lora_targets`, `latent_scale` and `latent_shift` come from the VAE.

    Those of the latent are numbers, or lists of one for each channel. `image_size` is a side, or [height, width];
    `scales` are sides, or [height, width] of each. `init` is a tokenizer to start from in place of a VAE, whose codes,
    attention and LoRA are kept: then the other keys are not asked.
    """

    variant: str = "custom"
    vae: str = ""
    init: str = ""
    image_size: Size = 256
    vocab_size: int = 16384
    scales: Scales = ()
    attention_dim: int = 32
    norm: str = "rms"
    lora_rank: int = 32
    lora_targets: tuple[str, ...] = ()
    latent_scale: float | tuple[float, ...] | None = None
    latent_shift: float | tuple[float, ...] | None = None
    license: str = ""


@dataclass(frozen=True)
class OptimSection(AdamSection):
    """With a learning rate of the quantizer's own."""

    lr_quantizer: float = 5e-4


@dataclass(frozen=True)
class LossSection(ImageLossSection):
    """With the quantizer's own terms, and what the first scales show: see `coda_deploy.train.prefix`."""

    vq: float = 1.0
    entropy: float = 0.05
    prefix: float = 0.0


@dataclass(frozen=True)
class WarmupSection:
    """The quantizer alone, on cached latents, before anything else: see `coda_deploy.train.warmup`.

    `images` 0 leaves it out. `rounds` of seeding by Lloyd's algorithm, then `steps` of gradient descent. `equalise`,
    with or without the rest, first changes the basis of the latent, so that an error costs the same in pixels in every
    direction. `entropy` is that loss's weight here: codes that have only been seeded need more of it than later.
    """

    images: int = 0
    rounds: int = 80
    steps: int = 0
    batch: int = 32
    lr: float = 3e-4
    entropy: float = 0.05
    equalise: bool = False


@dataclass(frozen=True)
class TrainConfig(Configuration):
    """Everything that decides the numbers of a training, but for the data and the VAE's weights."""

    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    data: DataSection = field(default_factory=DataSection)
    optim: OptimSection = field(default_factory=OptimSection)
    loss: LossSection = field(default_factory=LossSection)
    warmup: WarmupSection = field(default_factory=WarmupSection)
    save: SaveSection = field(default_factory=SaveSection)

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        for section, minimum, names in (
            ("tokenizer", 1, "vocab_size attention_dim"),
            ("tokenizer", 0, "lora_rank"),
            ("optim", 0, "lr_quantizer"),
            ("loss", 0, "vq entropy prefix"),
            ("warmup", 0, "images rounds steps lr entropy"),
            ("warmup", 1, "batch"),
        ):
            self.check_minimum(section, minimum, names)
        self.check_choice("tokenizer", "norm", get_args(NormType))
        self._check_sizes()
        self.check_shared()
        if self.warmup.steps and not self.warmup.images:
            raise ConfigError("warmup.steps needs warmup.images, the number of images whose latents are cached")

    def _check_sizes(self) -> None:
        """Check that these are sizes, and write each in one way; whether they fit is seen with the VAE."""
        asked = self.tokenizer
        for name, sizes in (("image_size", (asked.image_size,)), ("scales", asked.scales)):
            for size in sizes:
                if not is_size(size, _LIMIT):
                    raise ConfigError(
                        f"tokenizer.{name} is {describe(plain(size))}, expected 1 or more, or [height, width] of such"
                    )
        object.__setattr__(asked, "image_size", read_size(asked.image_size))
        object.__setattr__(asked, "scales", read_scales(asked.scales))


def named_configs() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return named(__package__)


def read_config(name_or_path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a ready configuration by name or a TOML file by path; ``overrides`` are ``section.key=value``, TOML values.

    Raises ``ConfigError``.
    """
    return read_toml(TrainConfig, __package__, name_or_path, overrides)
