"""An image's pixels: decoded, turned upright, and in RGB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from .opening import explained, opened, require_pillow

if TYPE_CHECKING:
    from PIL import Image

_BAND = 1 << 20  # pixels of a transparent image that are laid over white at a time


def open_rgb(
    source: str | os.PathLike[str] | IO[bytes] | Image.Image,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Open a path, an image file or a PIL image -> the image upright and in RGB, in its own size.

    Of several frames it is the first. `name`, `formats`, `max_pixels` and the errors are those of `fit_bytes`; a PIL
    image is its opener's, and neither formats nor max_pixels are asked.
    """
    require_pillow()
    from PIL import Image

    with explained(name):
        if isinstance(source, Image.Image):
            return _upright(source, name)
        with opened(source, name, formats, max_pixels) as image:
            return _upright(image, name)


def _upright(image: Image.Image, name: str) -> Image.Image:
    from PIL.Image import Transpose

    # An image that Pillow opened is read only now, so a cut file shows here; and some formats end with their EXIF.
    image.load()
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    # Not by ImageOps.exif_transpose, which copies what stands upright, and writes all of the EXIF anew where not.
    turn = turns.get(_orientation(image))
    return _to_rgb(image if turn is None else image.transpose(turn), name)


def _orientation(image: Image.Image) -> int:
    """Return what EXIF says; 1, upright, if its EXIF is damaged, as every viewer shows such an image."""
    from PIL import ExifTags

    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image

    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name!r} has {image.width} x {image.height} pixels; expected at least one")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"{name!r} has 32-bit grey values of unknown range (mode {image.mode}); convert it to 8-bit")
    if image.has_transparency_data:
        return _over_white(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lay the image over white band by band: the whole of it would be in memory five times."""
    from PIL import Image

    out = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        colour = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        out.paste(Image.alpha_composite(white, colour).convert("RGB"), (0, top))
    return out
