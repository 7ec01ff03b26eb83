"""Sizes of images, latents and token maps, and the schedules that they make.

A shape is a pair, height and width. A size is how a shape is written where squares are common: the side of a square, or
the pair. A schedule is the same for the scales, coarse to fine: their sides where all are square, or else pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from ..errors import InputError
from ..io.json_fields import describe, is_int

Shape: TypeAlias = tuple[int, int]
Size: TypeAlias = int | Shape
Scales: TypeAlias = tuple[Size, ...]

_TEXT = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")


def shape_of(size: Size) -> Shape:
    """Return (height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def size_of(shape: Shape) -> Size:
    """Return a shape as it is written: one number for a square."""
    height, width = shape
    return height if height == width else (height, width)


def shapes_of(scales: Scales) -> tuple[Shape, ...]:
    """Return (height, width) of each scale."""
    return tuple(map(shape_of, scales))


def scales_of(shapes: Iterable[Shape]) -> Scales:
    """Return a schedule as it is written: sides where every scale is square, or else pairs."""
    shapes = tuple(shapes)
    if all(height == width for height, width in shapes):
        return tuple(height for height, _ in shapes)
    return shapes


def count_of(shape: Shape) -> int:
    """Return how many points there are."""
    return shape[0] * shape[1]


def shape_text(size: Size, by: str = " x ") -> str:
    """Write a size out, height first: "192 x 320"."""
    height, width = shape_of(size)
    return f"{height}{by}{width}"


def size_text(size: Size) -> str:
    """Write a size as options take it: "512", "192x320"."""
    height, width = shape_of(size)
    return f"{height}" if height == width else f"{height}x{width}"


def scales_text(scales: Scales, separator: str = " ") -> str:
    """Write a schedule: "1 2 3", "1x1 2x3"."""
    if all(isinstance(scale, int) for scale in scales):
        return separator.join(map(str, scales))
    return separator.join(f"{height}x{width}" for height, width in shapes_of(scales))


def parse_size(text: str) -> Size:
    """Read "512", or "192x320", height first. Raises InputError."""
    found = _TEXT.fullmatch(text.strip().casefold())
    if found is None or 0 in (shape := (int(found[1]), int(found[2] or found[1]))):
        raise InputError(
            f"a size is {text!r}; expected a side in pixels such as 512, or height and width such as 192x320"
        )
    return size_of(shape)


def parse_scales(text: str) -> Scales:
    """Read "1,2,3,16", or "1x1,2x3,12x20", each height first. Raises InputError."""
    try:
        return scales_of(shape_of(parse_size(item)) for item in text.split(","))
    except InputError as error:
        raise InputError(
            f"the schedule is {text!r}; expected sides such as 1,2,3,4 or heights and widths such as 1x1,2x3,3x4"
        ) from error


def is_size(value: Any, limit: int) -> bool:
    """Return whether JSON holds a size: a whole number from 1 to `limit`, or a list of two."""
    return _is_side(value, limit) or _is_pair(value, limit)


def is_scales(value: Any, limit: int) -> bool:
    """Return whether JSON holds a schedule whose scales rise: sides up to `limit`, or a list of two for each."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    kind: Callable[[Any, int], bool] = _is_side if is_int(value[0]) else _is_pair
    if not all(kind(scale, limit) for scale in value):
        return False
    return rises(tuple(_pair(scale) for scale in value))


def read_size(value: Any) -> Size:
    """Return what JSON holds as a size, where `is_size` holds."""
    return size_of(_pair(value))


def read_scales(value: Any) -> Scales:
    """Return what JSON holds as a schedule, where `is_scales` holds."""
    return scales_of(map(_pair, value))


def plain(value: Size | Scales) -> Any:
    """Return a size or a schedule as JSON holds it, lists in place of tuples."""
    return value if isinstance(value, int) else [plain(part) for part in value]


def rises(shapes: Sequence[Shape]) -> bool:
    """Return whether neither height nor width ever falls, and each scale is larger than the one before."""
    return all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(shapes))


def latent_shape(name: str, size: Size, downsample: int) -> Shape:
    """Return the shape of a latent. Raises InputError naming the nearest sizes where `downsample` does not divide."""
    shape = shape_of(size)
    if not any(side % downsample for side in shape):
        return shape[0] // downsample, shape[1] // downsample
    below = size_of(_pair([side // downsample * downsample for side in shape]))
    above = size_of(_pair([-(-side // downsample) * downsample for side in shape]))
    near = [size_text(found) for found in (below, above) if min(shape_of(found)) > 0]
    raise InputError(
        f"{name} {size_text(size)} is not a multiple of {downsample}, the VAE's downsampling: choose "
        f"{' or '.join(near)}"
    )


def check_schedule(scales: Any, latent: Shape, limit: int, max_tokens: int) -> None:
    """Raise InputError unless `scales` rise, end at the latent's shape, and make no more than `max_tokens` tokens."""
    if not is_scales(scales, limit):
        raise InputError(
            f"scales must be whole numbers from 1 to {limit} that rise strictly, or pairs (height, width) of which "
            f"neither number falls, found {describe(list(scales) if isinstance(scales, tuple) else scales)}"
        )
    shapes = shapes_of(read_scales(scales))
    if shapes[-1] != latent:
        raise InputError(
            f"the scale schedule {plain(read_scales(scales))} must end at {plain(size_of(latent))}, the latent's "
            f"{'side' if latent[0] == latent[1] else 'height and width'}"
        )
    tokens = sum(map(count_of, shapes))
    if tokens > max_tokens:
        raise InputError(
            f"the scale schedule {plain(read_scales(scales))} makes {tokens} tokens an image, and {max_tokens} are the "
            "most: choose a smaller image size, or fewer scales"
        )


def _pair(value: Any) -> Shape:
    height, width = (value, value) if is_int(value) else value
    return int(height), int(width)


def _is_side(value: Any, limit: int) -> bool:
    return is_int(value) and 0 < value <= limit


def _is_pair(value: Any, limit: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_side(side, limit) for side in value)
