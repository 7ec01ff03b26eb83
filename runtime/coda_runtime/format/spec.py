"""What a tokenizer computes: the `spec` object of manifest.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..io.counts import count
from ..io.json_fields import Fields, fail
from .sizes import (
    Scales,
    Shape,
    Size,
    count_of,
    is_scales,
    is_size,
    plain,
    read_scales,
    read_size,
    scales_text,
    shape_of,
    shape_text,
    shapes_of,
    size_of,
    size_text,
)

# What a spec says is multiplied and allocated before a graph could contradict it, so each number has a limit, far over
# any tokenizer's.
MAX_SIDE, MAX_LATENT, MAX_TOKENS = 8192, 1024, 2**22  # pixels and latents along a side; tokens an image
_MAX_VALUES, _MAX_CODES = 2**28, 2**24  # latents x channels

_RULES = {"resize": ("lanczos",), "crop": ("center", "centre"), "color_order": ("rgb",)}


_SQUARE, _COVER = "shorter side, Lanczos", "cover, Lanczos"


def resize_rule(size: Size) -> str:
    """Return what `resize` says: of a rectangle, that both sides of it are covered, which the shorter side is not."""
    height, width = shape_of(size)
    return _SQUARE if height == width else _COVER


@dataclass(frozen=True)
class Spec:
    """What the tokenizer computes. Sizes are in pixels, latents or tokens; `scales` go coarse to fine.

    `image_size` is a square's side, or (height, width); `scales` are the sides of squares, or where one is none all of
    them (height, width). `height`, `width`, `latent_shape` and `scale_shapes` say the same for both.
    """

    variant: str
    image_size: Size
    downsample: int
    latent_channels: int
    vocab_size: int
    scales: Scales
    num_tokens: int
    resize: str = _SQUARE
    crop: str = "center"
    color_order: str = "RGB"
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def height(self) -> int:
        """Of an image, in pixels."""
        return self.image_shape[0]

    @property
    def width(self) -> int:
        """Of an image, in pixels."""
        return self.image_shape[1]

    @property
    def image_shape(self) -> Shape:
        """(height, width) of an image, in pixels."""
        return shape_of(self.image_size)

    @property
    def latent_shape(self) -> Shape:
        """(h, w) of the latent."""
        return self.height // self.downsample, self.width // self.downsample

    @property
    def latent_size(self) -> Size:
        """The latent's side image_size / downsample, or (h, w) where it is no square."""
        return size_of(self.latent_shape)

    @property
    def scale_shapes(self) -> tuple[Shape, ...]:
        """(height, width) of every scale, in tokens."""
        return shapes_of(self.scales)

    @property
    def is_square(self) -> bool:
        """Whether the image and every scale are squares."""
        return isinstance(self.image_size, int) and all(isinstance(scale, int) for scale in self.scales)

    @property
    def prefix_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens that make a whole number of scales, ascending; the last is num_tokens."""
        total, lengths = 0, []
        for shape in self.scale_shapes:
            total += count_of(shape)
            lengths.append(total)
        return tuple(lengths)

    @classmethod
    def from_json(cls, data: object) -> Spec:
        """Read the `spec` object of manifest.json. Raises ManifestError."""
        fields = Fields(data, "spec")
        size = fields.take(
            "image_size",
            lambda value: is_size(value, MAX_SIDE),
            f"a positive whole number up to {MAX_SIDE}, or [height, width]",
        )
        scales = fields.take(
            "scales",
            lambda value: is_scales(value, MAX_LATENT),
            f"an ascending list of whole numbers from 1 to {MAX_LATENT}, or of [height, width] pairs",
        )
        spec = cls(
            variant=fields.string("variant"),
            image_size=read_size(size),
            downsample=fields.positive("downsample", MAX_SIDE),
            latent_channels=fields.positive("latent_channels", _MAX_VALUES),
            vocab_size=fields.positive("vocab_size", _MAX_CODES),
            scales=read_scales(scales),
            num_tokens=fields.positive("num_tokens", MAX_TOKENS),
            resize=fields.string("resize", cls.resize),
            crop=fields.string("crop", cls.crop),
            color_order=fields.string("color_order", cls.color_order),
            extra=fields.rest(),
        )
        expected, last = spec.prefix_lengths[-1], spec.scale_shapes[-1]
        if spec.num_tokens != expected:
            told = scales_text(spec.scales, ", ")
            fail(f"spec.num_tokens is {spec.num_tokens}, but the scales [{told}] make {count(expected, 'token')}")
        if (last[0] * spec.downsample, last[1] * spec.downsample) != spec.image_shape:
            fail(
                f"the last scale is {size_text(last)}, but image_size / downsample = "
                f"{size_text(spec.image_size)} / {spec.downsample} must equal it"
            )
        if spec.latent_channels * count_of(last) > _MAX_VALUES:
            fail(f"the latent is {spec.latent_channels} x {shape_text(last)}, expected {_MAX_VALUES} values at most")
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
        return {**known, "image_size": plain(self.image_size), "scales": plain(self.scales), **self.extra}
