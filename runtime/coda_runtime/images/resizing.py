"""Any image to height x width: scaled with Lanczos until both are covered, and the centre cut out."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError
from ..format.color import STORED
from ..format.sizes import Shape, Size, shape_of
from .arrays import Pixels, check_one, encoded, kind
from .opening import explained, require_pillow
from .profiles import IgnoredProfiles
from .reading import open_rgb

if TYPE_CHECKING:
    from PIL import Image

# Times the height or the width; a longer strip is cropped while it is resized, which saves its memory.
_LONG_SIDE_LIMIT = 8


def fit(
    image: Any,
    size: Size,
    *,
    name: str = "the image",
    color: str = STORED,
    ignored: IgnoredProfiles | None = None,
) -> Pixels:
    """Fit one path, PIL image or uint8 [H,W,3] array -> uint8 [height,width,3] by the official rule.

    A file may be of FORMATS, have MAX_PIXELS and take MAX_SECONDS; a PIL image is its opener's, and none is asked.
    `size`, `color` and `ignored` are those of `fit_bytes`.

    Raises ImageError naming the file for what cannot be read, MissingDependencyError when Pillow is needed and absent.
    """
    if isinstance(image, np.ndarray):
        check_one(image, name)
        if image.shape[:2] == shape_of(size):
            return image
        return resize(require_pillow().fromarray(np.ascontiguousarray(image)), size)
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
    elif not isinstance(image, require_pillow().Image):
        expected = f"expected a path, a PIL image or a uint8 [H,W,3] array{encoded(image)}"
        raise ImageError(f"{name} is a {kind(image)}; {expected}")
    rgb = open_rgb(image, name=name, color=color, ignored=ignored)
    with explained(name):
        return resize(rgb, size)


def fit_bytes(
    data: bytes,
    size: Size,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
    max_seconds: float | None = None,
    color: str = STORED,
    ignored: IgnoredProfiles | None = None,
) -> Pixels:
    """Fit the bytes of an image file -> uint8 [height,width,3] by the official rule.

    Args:
        data: a whole file, such as a JPEG.
        size: of the result in pixels: a side, or (height, width).
        name: stands for it in messages.
        formats: Pillow's names of those that may be read, such as ("JPEG", "PNG"); None is FORMATS.
        max_pixels: width times height that the file's header may say, checked before a pixel is decoded; None is
            MAX_PIXELS, or PIL.Image.MAX_IMAGE_PIXELS where the application has set that lower.
        max_seconds: seconds of a processor that it may take to decode; None is MAX_SECONDS.
        color: "stored" takes the values as they are; "srgb" converts them to sRGB by the image's ICC profile.
        ignored: counts the image if it has a profile other than sRGB that is ignored.

    Raises:
        ImageError: it cannot be read, is of another format, is larger or slower than that, or its profile cannot be
            used.
        InputError: `color` is neither.
        MissingDependencyError: Pillow is not installed.
    """
    rgb = open_rgb(
        io.BytesIO(data),
        name=name,
        formats=formats,
        max_pixels=max_pixels,
        max_seconds=max_seconds,
        color=color,
        ignored=ignored,
    )
    with explained(name):
        return resize(rgb, size)


def resize(image: Image.Image, size: Size) -> Pixels:
    """Fit an image in RGB -> uint8 [height,width,3] by the official rule."""
    target = shape_of(size)[::-1]  # as Pillow has it, width first
    whole = covering(image.size, target)
    left, top = (round((side - wanted) / 2.0) for side, wanted in zip(whole, target, strict=True))
    right, bottom = left + target[0], top + target[1]
    if any(side > _LONG_SIDE_LIMIT * wanted for side, wanted in zip(whole, target, strict=True)):
        across, down = image.width / whole[0], image.height / whole[1]
        box = (left * across, top * down, right * across, bottom * down)
        return np.asarray(lanczos(image, target, box))
    if whole != image.size:
        image = lanczos(image, whole)
    return np.asarray(image.crop((left, top, right, bottom)))


def lanczos(image: Image.Image, size: Shape, box: tuple[float, float, float, float] | None = None) -> Image.Image:
    """Fit an image, or the `box` (left, top, right, bottom) of it, to `size` (width, height), the width first.

    Pillow up to 12 begins with the width; from 13 on with the height, where it loses more than twice as many rows as
    columns. There are 8 bits between the two, so that portraits would get other pixels, and other tokens, by version.
    """
    from PIL.Image import Resampling

    width, height = size
    if image.height - height > image.width - width:
        left, top, right, bottom = box or (0, 0, *image.size)
        image = image.resize((width, image.height), Resampling.LANCZOS, box=(left, 0, right, image.height))
        box = (0, top, width, bottom)
    return image.resize(size, Resampling.LANCZOS, box=box)


def tight_axis(size: Shape, target: Shape) -> int:
    """Return the axis, 0 or 1, along which an image of `size` has to be scaled the most to cover `target`.

    For a square it is that of the shorter side. Both are in one order.
    """
    return int(target[1] * size[0] > target[0] * size[1])


def covering(size: Shape, target: Shape) -> Shape:
    """Return the smallest size that keeps an image's aspect and covers `target`: equal to it along the tight axis."""
    tight = tight_axis(size, target)
    return scaled(size, tight, target[tight])


def scaled(size: Shape, axis: int, length: int) -> Shape:
    """Return a size scaled so that it has `length` along `axis`, rounded down as the rule for squares has it."""
    first, second = (int(length * side / size[axis]) for side in size)
    return first, second
