"""What a tokenizer is made of, as data: read from and written to ``config.json``."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from coda_deploy.errors import ConfigError
from coda_deploy.families import Family, family_of
from coda_runtime.errors import InputError
from coda_runtime.format.sizes import (
    Scales,
    Size,
    check_schedule,
    count_of,
    is_size,
    latent_shape,
    plain,
    read_scales,
    read_size,
    shapes_of,
)
from coda_runtime.format.spec import MAX_LATENT, MAX_SIDE, MAX_TOKENS, Spec, resize_rule
from coda_runtime.io.json_fields import describe, is_int

NormType = Literal["none", "layer", "rms"]
CONFIG_FORMAT = "coda-tokenizer"
CONFIG_VERSION = 1
# Far above any tokenizer's: more would be built for hours, or overflow PyTorch's sizes.
_LIMIT = 2**16
_LIMITS = {"vocab_size": 2**31 - 1}
Statistic = float | tuple[float, ...]
"""A number, or one for each channel of the latent."""


@dataclass(frozen=True)
class LoraConfig:
    """Which layers learn a low-rank difference (arXiv 2503.17760): ``y = conv(x) + up(down(x))``.

    ``targets`` are matched as substrings of a layer's dotted name inside the VAE, a Conv2d's, and where the VAE's
    family allows it an nn.Linear's; empty, they are the family's own. ``rank`` is the number of channels between
    ``down`` and ``up``.
    """

    rank: int = 32
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizerConfig:
    """Everything but the weights.

    ``image_size`` is the side of a square in pixels, or (height, width). ``vae`` is the configuration of a continuous
    VAE, of the class that its ``_class_name`` names, without one of an ``AutoencoderKL``. The latent the quantizer sees
    is ``latent_scale * (mean - latent_shift)``, each a number or one for each channel. ``scales`` are the sides of the
    token maps, coarse to fine, or (height, width) of each; the last one is the shape of the latent. ``lora`` is None
    for a VAE without (or with merged) LoRA.

    Raises ``ConfigError`` when the numbers do not fit together.
    """

    variant: str
    image_size: Size
    vocab_size: int
    scales: Scales
    vae: dict[str, Any] = field(repr=False)
    latent_scale: Statistic = 1.0
    latent_shift: Statistic = 0.0
    attention_dim: int = 32
    norm: NormType = "rms"
    norm_eps: float = 1e-5
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    license: str | None = None

    def __post_init__(self) -> None:
        """Check that the numbers are numbers and fit together."""
        if not isinstance(self.vae, dict):
            raise ConfigError(f"vae must be the VAE's configuration, an object, found {describe(self.vae)}")
        shape = self.family.check(self.vae)
        if not isinstance(self.lora, LoraConfig | None):
            raise ConfigError(f"lora must be a rank and targets, or null, found {describe(self.lora)}")
        self._check_whole_numbers()
        _check_number("norm_eps", self.norm_eps)
        for name in ("latent_scale", "latent_shift"):
            _check_statistic(name, getattr(self, name), shape.channels)
        texts = {"variant": self.variant, "license": "none" if self.license is None else self.license}
        for name, text in texts.items():
            if not isinstance(text, str) or not text or not text.isprintable():
                raise ConfigError(f"{name} must be a text that can be printed, found {describe(text)}")
        self._check_sizes()
        if self.vocab_size < 2:
            raise ConfigError(f"vocab_size must be at least 2, found {self.vocab_size}")
        if self.norm not in get_args(NormType):
            raise ConfigError(f"norm must be one of {', '.join(get_args(NormType))}, found {self.norm!r}")
        for value in numbers_of(self.latent_scale):
            if not 0 < value < math.inf:
                raise ConfigError(f"latent_scale must be positive, found {value}")
        for value in numbers_of(self.latent_shift):
            if not math.isfinite(value):
                raise ConfigError(f"latent_shift must be finite, found {value}")
        if not 0 <= self.norm_eps < math.inf:
            raise ConfigError(f"norm_eps must be 0 or more, found {self.norm_eps}")

    def _check_sizes(self) -> None:
        if not is_size(self.image_size, MAX_SIDE):
            raise ConfigError(
                f"image_size must be a whole number from 1 to {MAX_SIDE}, or [height, width], found "
                f"{describe(self.image_size)}"
            )
        try:
            latent = latent_shape("image_size", read_size(self.image_size), self.downsample)
            check_schedule(self.scales, latent, MAX_LATENT, MAX_TOKENS)
        except InputError as error:
            raise ConfigError(str(error)) from None
        # One way to write each: a square by its side, tuples in place of JSON's lists.
        object.__setattr__(self, "image_size", read_size(self.image_size))
        object.__setattr__(self, "scales", read_scales(self.scales))

    def _check_whole_numbers(self) -> None:
        whole = {
            "vocab_size": self.vocab_size,
            "attention_dim": self.attention_dim,
            "lora.rank": 1 if self.lora is None else self.lora.rank,
        }
        for name, value in whole.items():
            if not is_int(value) or value < 1:
                raise ConfigError(f"{name} must be a whole number, 1 or more, found {describe(value)}")
            limit = _LIMITS.get(name, _LIMIT)
            if value > limit:
                raise ConfigError(f"{name} must be {limit} at most, found {describe(value)}")

    @property
    def family(self) -> Family:
        """What is known of the VAE's class. Raises ``ConfigError`` for one that has no family."""
        return family_of(self.vae)

    @property
    def downsample(self) -> int:
        """f: pixels per latent position along a side."""
        return self.family.shape(self.vae).downsample

    @property
    def latent_channels(self) -> int:
        """C: channels of the latent and of a code."""
        return self.family.shape(self.vae).channels

    @property
    def num_tokens(self) -> int:
        """L: tokens of one image, over all scales."""
        return sum(map(count_of, shapes_of(self.scales)))

    @property
    def spec(self) -> Spec:
        """The same facts as a deployed bundle states them."""
        return Spec(
            variant=self.variant,
            image_size=self.image_size,
            downsample=self.downsample,
            latent_channels=self.latent_channels,
            vocab_size=self.vocab_size,
            scales=self.scales,
            num_tokens=self.num_tokens,
            resize=resize_rule(self.image_size),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that ``from_json`` reads back."""
        values = {**dataclasses.asdict(self), "image_size": plain(self.image_size), "scales": plain(self.scales)}
        return {"format": CONFIG_FORMAT, "format_version": CONFIG_VERSION, **values}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TokenizerConfig:
        """Read ``config.json``. Raises ``ConfigError`` on a foreign, newer or incomplete one, naming the key."""
        if not isinstance(data, dict) or data.get("format") != CONFIG_FORMAT:
            found = data.get("_class_name", "no format key") if isinstance(data, dict) else type(data).__name__
            raise ConfigError(
                f"config.json is not a CODA tokenizer's (found {found}, expected format {CONFIG_FORMAT!r}): "
                "of a plain VAE coda train --vae makes a tokenizer (in Python CodaTokenizer.from_vae), of CODA's "
                "published checkpoints coda import-official"
            )
        version = data.get("format_version")
        if version != CONFIG_VERSION:
            raise ConfigError(
                f"config.json has format_version {version!r}, this coda-deploy reads {CONFIG_VERSION}: "
                "upgrade coda-deploy"
            )
        values = {key: value for key, value in data.items() if key not in ("format", "format_version")}
        names = {f.name for f in dataclasses.fields(cls)}
        for key in values.keys() - names:
            near = difflib.get_close_matches(key, names, 1)
            raise ConfigError(
                f"config.json has an unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
            )
        required = {"variant", "image_size", "vocab_size", "scales", "vae"}
        if missing := sorted(required - values.keys()):
            raise ConfigError(f"config.json lacks {', '.join(missing)}")
        try:
            for name in ("latent_scale", "latent_shift"):
                if isinstance(values.get(name), list):
                    values[name] = tuple(values[name])
            if values.get("lora") is not None:
                lora = values["lora"]
                targets = lora["targets"]
                if not isinstance(targets, list | tuple) or not all(isinstance(target, str) for target in targets):
                    raise ConfigError(f"lora.targets must be a list of texts, found {describe(targets)}")
                values["lora"] = LoraConfig(lora["rank"], tuple(targets))
            return cls(**values)
        except (TypeError, KeyError) as error:
            raise ConfigError(f"config.json has a value of the wrong type: {error!r}") from error


def numbers_of(statistic: Statistic) -> tuple[float, ...]:
    """Return a statistic's numbers: one, or one for each channel."""
    return statistic if isinstance(statistic, tuple) else (statistic,)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a number, found {describe(value)}")


def _check_statistic(name: str, value: object, channels: int) -> None:
    if not isinstance(value, tuple):
        _check_number(name, value)
        return
    if len(value) != channels:
        raise ConfigError(f"{name} must be a number, or {channels}, one for each channel, found {len(value)} of them")
    for index, number in enumerate(value):
        _check_number(f"{name}[{index}]", number)
