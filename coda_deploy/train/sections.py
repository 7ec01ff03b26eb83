"""What the configurations of all trainings share: sections, their checks, and the way from a TOML file and back.

Lengths are optimiser steps unless a name says otherwise; shares are of the whole training, from 0 to 1.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from coda_deploy.errors import ConfigError
from coda_deploy.train.tables import plain, read_section, toml, unknown
from coda_runtime.format.color import COLORS, STORED
from coda_runtime.format.precision import BF16, FP16, FP32

PRECISIONS = (FP32, BF16)
DTYPES = (FP32, FP16, BF16)
TRACKERS = ("none", "tensorboard", "wandb")
C = TypeVar("C", bound="Configuration")


@dataclass(frozen=True)
class DataSection:
    """How images are cut: see `coda_deploy.data.Crop`. `zoom_max` 0 leaves the zoom fixed.

    `color` says what becomes of their colour profiles: "stored" ignores them, "srgb" converts by them.
    """

    zoom: float = 1.125
    zoom_max: float = 0.0
    flip: bool = False
    upscale: bool = True
    workers: int = 4
    color: str = STORED


@dataclass(frozen=True)
class AdamSection:
    """AdamW and its schedule. `batch` is per process and micro-step; `steps` 0 counts in `epochs` instead.

    `final_lr` is the share of the learning rates that the cosine ends at.
    """

    epochs: float = 10.0
    steps: int = 0
    batch: int = 16
    accumulate: int = 1
    lr: float = 5e-4
    final_lr: float = 0.0
    lr_warmup: int = 0
    betas: tuple[float, ...] = (0.5, 0.9)
    weight_decay: float = 0.005
    weight_decay_discriminator: float = 0.0005
    clip: float = 10.0
    ema: float = 0.9999
    ema_start: float = 0.4
    precision: str = FP32
    seed: int = 42

    @property
    def bf16(self) -> bool:
        """Whether the forward passes are computed in bfloat16 where that is safe."""
        return self.precision == BF16


@dataclass(frozen=True)
class ImageLossSection:
    """Weights of the terms that compare images, 0 switches one off. `augment` is the probability of each
    augmentation before the discriminator, `blur_fade` the share of the training after which it sees unblurred images.
    """  # noqa: D205

    l1: float = 0.2
    l2: float = 1.0
    lpips: float = 1.0
    gan: float = 1.0
    gan_warmup: float = 1.0
    augment: float = 1.0
    blur_fade: float = 0.1
    lpips_weights: str = ""
    dino_weights: str = ""


@dataclass(frozen=True)
class SaveSection:
    """What is written, and how often. `keep` counts checkpoints; `pictures` 0 writes no sample grids."""

    every: int = 1000
    keep: int = 3
    log: int = 20
    pictures: int = 1000
    dtype: str = FP32
    tracking: str = "none"
    project: str = "coda"


class Configuration:
    """The base of a frozen dataclass of sections, of which these four are always there."""

    data: DataSection
    optim: AdamSection
    loss: ImageLossSection
    save: SaveSection

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return plain data that ``from_tables`` reads back; keys that are None are left out."""
        tables = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: {k: plain(v) for k, v in table.items() if v is not None} for name, table in tables.items()}

    def to_toml(self) -> str:
        """Return the whole configuration as a file that ``read_toml`` reads back."""
        return toml(self.to_json())

    @classmethod
    def from_tables(cls: type[C], tables: Mapping[str, Any], source: str = "the configuration") -> C:
        """Build from plain data. Raises ``ConfigError`` naming an unknown key and the nearest known one, or a value."""
        known = {f.name: get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        sections = {}
        for name, table in tables.items():
            if name not in known:
                raise ConfigError(unknown(source, name, known, "table"))
            sections[name] = read_section(known[name], table, f"{source}: {name}")
        return cls(**sections)

    def check_minimum(self, section: str, minimum: float, names: str) -> None:
        """Raise ``ConfigError`` unless each of ``names``, by spaces apart, is finite and ``minimum`` or more."""
        for name in names.split():
            value = getattr(getattr(self, section), name)
            if not minimum <= value < math.inf:
                raise ConfigError(f"{section}.{name} is {value}, expected {minimum} or more")

    def check_choice(self, section: str, name: str, allowed: Iterable[str]) -> None:
        """Raise ``ConfigError`` unless a setting is one of ``allowed``."""
        value = getattr(getattr(self, section), name)
        if value not in (names := tuple(allowed)):
            raise ConfigError(f"{section}.{name} is {value!r}, expected one of {', '.join(names)}")

    def check_shared(self) -> None:
        """Check what the types cannot in the four sections. Raises ``ConfigError``."""
        self.check_choice("data", "color", COLORS)
        for section, minimum, names in (
            ("data", 1, "zoom"),
            ("data", 0, "zoom_max workers"),
            ("optim", 1, "batch accumulate"),
            ("optim", 0, "epochs steps lr lr_warmup weight_decay weight_decay_discriminator seed"),
            ("loss", 0, "l1 l2 lpips gan"),
            ("save", 1, "every keep log"),
            ("save", 0, "pictures"),
        ):
            self.check_minimum(section, minimum, names)
        for section, name, allowed in (
            ("optim", "precision", PRECISIONS),
            ("save", "dtype", DTYPES),
            ("save", "tracking", TRACKERS),
        ):
            self.check_choice(section, name, allowed)
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
        if not any((self.loss.l1, self.loss.l2, self.loss.lpips)):
            raise ConfigError("loss.l1, loss.l2 and loss.lpips are all 0: nothing would compare images")


def named(package: str) -> list[str]:
    """Return the names of the configurations that come in ``package``'s folder ``configs``."""
    found = [path.name for path in files(package).joinpath("configs").iterdir()]
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def read_toml(cls: type[C], package: str, name_or_path: str | Path, overrides: Iterable[str] = ()) -> C:
    """Read a ready configuration of ``package`` by name, or a TOML file by path.

    ``overrides`` are ``section.key=value``, TOML values. Raises ``ConfigError``.
    """
    names = named(package)
    if str(name_or_path) in names:
        text = files(package).joinpath("configs", f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"no configuration {str(name_or_path)!r}: expected a TOML file, or one of {', '.join(names)}"
            ) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path} is not TOML: {error}") from error
    for override in overrides:
        _override(tables, override)
    return cls.from_tables(tables, str(name_or_path))


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
