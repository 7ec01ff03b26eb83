"""A training configuration: one TOML file, read into frozen dataclasses with every key and value checked.

Lengths are optimiser steps unless a name says otherwise; shares are of the whole training, from 0 to 1.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

from coda_deploy.tokenizer.config import ConfigError, NormType
from coda_deploy.train.tables import plain, read_section, toml, unknown

PRECISIONS = ("fp32", "bf16")
TRACKERS = ("none", "tensorboard", "wandb")


@dataclass(frozen=True)
class TokenizerSection:
    """What is trained; the defaults of `scales`, `latent_scale` and `latent_shift` come from the VAE."""

    variant: str = "custom"
    vae: str = ""
    image_size: int = 256
    vocab_size: int = 16384
    scales: tuple[int, ...] = ()
    attention_dim: int = 32
    norm: str = "rms"
    lora_rank: int = 32
    lora_targets: tuple[str, ...] = ("conv1", "conv2")
    latent_scale: float | None = None
    latent_shift: float | None = None
    license: str = ""


@dataclass(frozen=True)
class DataSection:
    """How images are cut: see :class:`coda_deploy.data.Crop`. `zoom_max` 0 leaves the zoom fixed."""

    zoom: float = 1.125
    zoom_max: float = 0.0
    flip: bool = False
    upscale: bool = True
    workers: int = 4


@dataclass(frozen=True)
class OptimSection:
    """AdamW and its schedule. `batch` is per process and micro-step; `steps` 0 counts in `epochs` instead.

    `final_lr` is the share of the learning rates that the cosine ends at.
    """

    epochs: float = 10.0
    steps: int = 0
    batch: int = 16
    accumulate: int = 1
    lr: float = 5e-4
    lr_quantizer: float = 5e-4
    final_lr: float = 0.0
    lr_warmup: int = 0
    betas: tuple[float, ...] = (0.5, 0.9)
    weight_decay: float = 0.005
    weight_decay_discriminator: float = 0.0005
    clip: float = 10.0
    ema: float = 0.9999
    ema_start: float = 0.4
    precision: str = "fp32"
    seed: int = 42


@dataclass(frozen=True)
class LossSection:
    """Weights of the terms, 0 switches one off. `augment` is the probability of each augmentation before the
    discriminator, `blur_fade` the share of the training after which it sees unblurred pictures.
    """  # noqa: D205

    l1: float = 0.2
    l2: float = 1.0
    lpips: float = 1.0
    gan: float = 1.0
    vq: float = 1.0
    entropy: float = 0.05
    gan_warmup: float = 1.0
    augment: float = 1.0
    blur_fade: float = 0.1
    lpips_weights: str = ""
    dino_weights: str = ""


@dataclass(frozen=True)
class WarmupSection:
    """The quantizer alone, on cached latents, before anything else: see :mod:`coda_deploy.train.warmup`.

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
class SaveSection:
    """What is written, and how often. `keep` counts checkpoints; `pictures` 0 writes no sample grids."""

    every: int = 1000
    keep: int = 3
    log: int = 20
    pictures: int = 1000
    dtype: str = "fp32"
    tracking: str = "none"
    project: str = "coda"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of a training, but for the data and the VAE's weights."""

    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    data: DataSection = field(default_factory=DataSection)
    optim: OptimSection = field(default_factory=OptimSection)
    loss: LossSection = field(default_factory=LossSection)
    warmup: WarmupSection = field(default_factory=WarmupSection)
    save: SaveSection = field(default_factory=SaveSection)

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        for section, least, names in (
            ("tokenizer", 1, "image_size vocab_size attention_dim"),
            ("tokenizer", 0, "lora_rank"),
            ("data", 1, "zoom"),
            ("data", 0, "zoom_max workers"),
            ("optim", 1, "batch accumulate"),
            ("optim", 0, "epochs steps lr lr_quantizer lr_warmup weight_decay weight_decay_discriminator seed"),
            ("loss", 0, "l1 l2 lpips gan vq entropy"),
            ("warmup", 0, "images rounds steps lr entropy"),
            ("warmup", 1, "batch"),
            ("save", 1, "every keep log"),
            ("save", 0, "pictures"),
        ):
            for name in names.split():
                value = getattr(getattr(self, section), name)
                if not least <= value < math.inf:
                    raise ConfigError(f"{section}.{name} is {value}, expected {least} or more")
        for section, name, allowed in (
            ("tokenizer", "norm", get_args(NormType)),
            ("optim", "precision", PRECISIONS),
            ("save", "dtype", ("fp32", "fp16", "bf16")),
            ("save", "tracking", TRACKERS),
        ):
            value = getattr(getattr(self, section), name)
            if value not in allowed:
                raise ConfigError(f"{section}.{name} is {value!r}, expected one of {', '.join(allowed)}")
        for section, names in (("optim", "final_lr ema ema_start"), ("loss", "gan_warmup augment blur_fade")):
            for name in names.split():
                value = getattr(getattr(self, section), name)
                if not 0 <= value <= 1:
                    raise ConfigError(f"{section}.{name} is {value}, expected 0 to 1")
        if self.optim.seed >= 2**63:
            raise ConfigError(f"optim.seed is {self.optim.seed}, expected less than 2^63")
        if not self.optim.steps and not self.optim.epochs:
            raise ConfigError("optim.steps and optim.epochs are both 0: one of them says how long to train")
        if not 0 < self.optim.clip < math.inf:
            raise ConfigError(f"optim.clip is {self.optim.clip}, expected more than 0")
        if len(self.optim.betas) != 2 or not all(0 <= beta < 1 for beta in self.optim.betas):
            raise ConfigError(f"optim.betas is {list(self.optim.betas)}, expected two numbers from 0 to under 1")
        if 0 < self.data.zoom_max < self.data.zoom:
            raise ConfigError(
                f"data.zoom_max is {self.data.zoom_max}, expected 0, or data.zoom = {self.data.zoom} or more"
            )
        if self.warmup.steps and not self.warmup.images:
            raise ConfigError("warmup.steps needs warmup.images, the number of images whose latents are cached")
        if not any((self.loss.l1, self.loss.l2, self.loss.lpips)):
            raise ConfigError("loss.l1, loss.l2 and loss.lpips are all 0: nothing would compare pictures")

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Plain data that ``from_tables`` reads back; keys that are None are left out."""
        tables = dataclasses.asdict(self)
        return {name: {k: plain(v) for k, v in table.items() if v is not None} for name, table in tables.items()}

    def to_toml(self) -> str:
        """The whole configuration as a file that ``read_config`` reads back."""
        return toml(self.to_json())

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], source: str = "the configuration") -> TrainConfig:
        """Build from plain data. Raises ``ConfigError`` naming an unknown key and the nearest known one, or a value."""
        known = {f.name: get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}
        sections = {}
        for name, table in tables.items():
            if name not in known:
                raise ConfigError(unknown(source, name, known, "table"))
            sections[name] = read_section(known[name], table, f"{source}: {name}")
        return cls(**sections)


def named_configs() -> list[str]:
    """Configurations that come with the package."""
    found = [path.name for path in files(__package__).joinpath("configs").iterdir()]
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def read_config(name_or_path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """A ready configuration by name or a TOML file by path; ``overrides`` are ``section.key=value``, TOML values.

    Raises ``ConfigError``.
    """
    if str(name_or_path) in named_configs():
        text = files(__package__).joinpath("configs", f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"no configuration {str(name_or_path)!r}: expected a TOML file, or one of {', '.join(named_configs())}"
            ) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path} is not TOML: {error}") from error
    for override in overrides:
        _override(tables, override)
    return TrainConfig.from_tables(tables, str(name_or_path))


def _override(tables: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"cannot read the setting {text!r}: expected section.key=value, as in optim.batch=8")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a word without quotes
    table = tables.setdefault(section, {})
    if isinstance(table, dict):  # anything else is told of with the rest of the file
        table[key] = parsed
