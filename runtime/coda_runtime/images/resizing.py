"""Any image to S x S: the shorter side to S with Lanczos, and the centre cut out."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError
from ..format.color import STORED
from .arrays import Pixels, check_one, encoded, kind
from .opening import explained, require_pillow
from .profiles import IgnoredProfiles
from .reading import open_rgb

if TYPE_CHECKING:
    from PIL import Image

_LONG_SIDE_LIMIT = 8  # times S; a longer strip is cropped while it is resized, which saves its memory


def fit(
    image: Any,
    size: int,
    *,
    name: str = "the image",
    color: str = STORED,
    ignored: IgnoredProfiles | None = None,
) -> Pixels:
    """Fit one path, PIL image or uint8 [H,W,3] array -> uint8 [size,size,3] by the official rule.

    A file may be of FORMATS, have MAX_PIXELS and take MAX_SECONDS; a PIL image is its opener's, and none is asked.
    `color` and `ignored` are those of `fit_bytes`.

    Raises ImageError naming the file for what cannot be read, MissingDependencyError when Pillow is needed and absent.
    """
    if isinstance(image, np.ndarray):
        check_one(image, name)
        if image.shape[:2] == (size, size):
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
    size: int,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
    max_seconds: float | None = None,
    color: str = STORED,
    ignored: IgnoredProfiles | None = None,
) -> Pixels:
    """Fit the bytes of an image file -> uint8 [size,size,3] by the official rule.

    Args:
        data: a whole file, such as a JPEG.
        size: side of the result, in pixels.
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


def resize(image: Image.Image, size: int) -> Pixels:
    """Fit an image in RGB -> uint8 [size,size,3] by the official rule."""
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    if max(width, height) > _LONG_SIDE_LIMIT * size:
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.asarray(image.resize((size, size), Resampling.LANCZOS, box=box))
    if (width, height) != image.size:
        image = image.resize((width, height), Resampling.LANCZOS)
    return np.asarray(image.crop((left, top, left + size, top + size)))
