"""What a file says of its values and Pillow does not hand on: which way they count, and which of them are clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_WHITE_IS_ZERO = 0
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_STEPS = {"L;2": 255 // 3, "L;4": 255 // 15}
"""What Pillow multiplies the grey values of such a PNG by, and not the clear one that stands beside them."""


@dataclass(frozen=True)
class Stored:
    """How an image's values stand in its file.

    `inverted`: they are the negative of what Pillow's mode means by them. `bits` are those of a 16-bit grey mode.
    `clear` is the value that is transparent, where Pillow does not find it itself: grey, or (red, green, blue) of which
    `low` has the lower 8 bits of the image, and Pillow's own the upper ones.
    """

    inverted: bool = False
    bits: int = 16
    clear: Any = None
    low: Image.Image | None = None


def look(image: Image.Image) -> Stored:
    """Look at an image before its pixels are read."""
    clear = image.info.get("transparency")
    if image.format in ("JPEG", "MPO"):
        # Pillow takes all CMYK for Adobe's, whose 0 is all ink. Without Adobe's marker 0 is none: libjpeg.txt.
        return Stored(inverted=image.mode == "CMYK" and "adobe" not in image.info)
    if image.mode.startswith("I;16"):
        tags: Any = getattr(image, "tag_v2", {})
        bits = tags.get(_BITS, (16,))[0]
        # With 8 bits or fewer Pillow turns them round itself.
        return Stored(tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, bits, clear)
    tile = getattr(image, "tile", None)
    if image.format == "PNG" and clear is not None and tile:
        raw_mode = tile[0][3]
        if raw_mode in _STEPS:
            return Stored(clear=clear * _STEPS[raw_mode])
        if raw_mode == "RGB;16B":
            return Stored(clear=clear, low=_low_bytes(image))
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # its pixels were read before
        return Stored(clear=tuple(value >> 8 for value in clear))
    return Stored()


def eight_bits(piece: Image.Image, stored: Stored, low: Image.Image | None) -> Image.Image:
    """Return a piece of an image in a mode of 8 bits, with an alpha channel where something of it may be clear.

    `low` is the same piece of `stored.low`.
    """
    from PIL import Image, ImageChops

    if piece.mode.startswith("I;16"):
        values = np.asarray(piece).astype(np.uint16)
        clear = None if stored.clear is None else values == stored.clear
        if stored.inverted:
            values = (1 << stored.bits) - 1 - values
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        grey = Image.fromarray((values >> (stored.bits - 8)).astype(np.uint8))
        return grey if clear is None else _with_alpha(grey, clear)
    if stored.inverted:
        return ImageChops.invert(piece)
    if low is not None:
        upper, lower = ([value >> 8 for value in stored.clear], [value & 255 for value in stored.clear])
        return _with_alpha(piece, ((np.asarray(piece) == upper) & (np.asarray(low) == lower)).all(axis=2))
    if stored.clear is not None:
        piece.info["transparency"] = stored.clear
    if not piece.has_transparency_data:
        return piece
    return (piece.convert("LA") if piece.mode == "La" else piece).convert("RGBA")


def _with_alpha(piece: Image.Image, clear: np.ndarray[Any, np.dtype[np.bool_]]) -> Image.Image:
    from PIL import Image

    piece.info.pop("transparency", None)
    out = piece.convert("RGBA")
    out.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return out


def _low_bytes(image: Any) -> Image.Image:
    """Read a PNG of 16-bit RGB once more, for the lower 8 bits."""
    file = image.fp
    at = file.tell()
    file.seek(0)
    again = type(image)(file)
    (tile,) = again.tile
    again.tile = [tile._replace(args="RGB;16L") if hasattr(tile, "_replace") else (*tile[:3], "RGB;16L")]
    again.load()
    file.seek(at)
    return again  # type: ignore[no-any-return]
