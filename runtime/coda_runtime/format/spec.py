"""What a tokenizer computes: the `spec` object of manifest.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..io.counts import count
from ..io.json_fields import Fields, fail, is_int

# What a spec says is multiplied and allocated before a graph could contradict it, so each number has a limit, far over
# any tokenizer's.
_MAX_SIDE, _MAX_LATENT, _MAX_VALUES = 8192, 1024, 2**28  # pixels; latents; latents x channels
_MAX_CODES, _MAX_TOKENS = 2**24, 2**22

_RULES = {"resize": ("lanczos",), "crop": ("center", "centre"), "color_order": ("rgb",)}


@dataclass(frozen=True)
class Spec:
    """What the tokenizer computes. Sides are in pixels, latents or tokens; `scales` lists sides, coarse to fine."""

    variant: str
    image_size: int
    downsample: int
    latent_channels: int
    vocab_size: int
    scales: tuple[int, ...]
    num_tokens: int
    resize: str = "shorter side, Lanczos"
    crop: str = "center"
    color_order: str = "RGB"
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def latent_size(self) -> int:
        """Side of the latent, h = w = image_size / downsample."""
        return self.image_size // self.downsample

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens that make a whole number of scales, ascending; the last is num_tokens."""
        total, lengths = 0, []
        for side in self.scales:
            total += side * side
            lengths.append(total)
        return tuple(lengths)

    @classmethod
    def from_json(cls, data: object) -> Spec:
        """Read the `spec` object of manifest.json. Raises ManifestError."""
        fields = Fields(data, "spec")
        scales = fields.take("scales", _is_scales, f"an ascending list of whole numbers from 1 to {_MAX_LATENT}")
        spec = cls(
            variant=fields.string("variant"),
            image_size=fields.positive("image_size", _MAX_SIDE),
            downsample=fields.positive("downsample", _MAX_SIDE),
            latent_channels=fields.positive("latent_channels", _MAX_VALUES),
            vocab_size=fields.positive("vocab_size", _MAX_CODES),
            scales=tuple(scales),
            num_tokens=fields.positive("num_tokens", _MAX_TOKENS),
            resize=fields.string("resize", cls.resize),
            crop=fields.string("crop", cls.crop),
            color_order=fields.string("color_order", cls.color_order),
            extra=fields.rest(),
        )
        expected = sum(side * side for side in spec.scales)
        if spec.num_tokens != expected:
            fail(
                f"spec.num_tokens is {spec.num_tokens}, but the scales {list(spec.scales)} make "
                f"{count(expected, 'token')}"
            )
        if spec.scales[-1] * spec.downsample != spec.image_size:
            fail(
                f"the last scale is {spec.scales[-1]}, but image_size / downsample = "
                f"{spec.image_size} / {spec.downsample} must equal it"
            )
        if spec.latent_channels * spec.scales[-1] ** 2 > _MAX_VALUES:
            fail(
                f"the latent is {spec.latent_channels} x {spec.scales[-1]} x {spec.scales[-1]}, expected "
                f"{_MAX_VALUES} values at most"
            )
        # The runtime knows one way to prepare an image; any other would silently give other tokens. The wording is
        # free, since bundles made by hand describe the same rule in other words.
        for name, words in _RULES.items():
            found = getattr(spec, name)
            if not any(word in found.casefold() for word in words):
                fail(f"spec.{name} is {found!r}, and this runtime only knows {getattr(cls, name)!r}")
        return spec

    def to_json(self) -> dict[str, Any]:
        """Return the `spec` object of manifest.json."""
        names = ("variant", "image_size", "downsample", "latent_channels", "vocab_size", "scales", "num_tokens")
        known = {name: getattr(self, name) for name in (*names, "resize", "crop", "color_order")}
        return {**known, "scales": list(self.scales), **self.extra}


def _is_scales(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(is_int(side) and 0 < side <= _MAX_LATENT for side in value):
        return False
    return all(a < b for a, b in pairwise(value))
