"""An image's pixels: decoded, turned upright, and in RGB."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING

from ..errors import ImageError
from ..format.color import SRGB, STORED, check_color
from .opening import explained, opened, require_pillow
from .profiles import IgnoredProfiles, differs, profile_of, to_srgb
from .stored import Stored, eight_bits, look

if TYPE_CHECKING:
    from PIL import Image

_BAND = 1 << 20  # pixels that are converted at a time, where the whole would be in memory several times


def open_rgb(
    source: str | os.PathLike[str] | IO[bytes] | Image.Image,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    max_pixels: int | None = None,
    max_seconds: float | None = None,
    color: str = STORED,
    ignored: IgnoredProfiles | None = None,
) -> Image.Image:
    """Open a path, an image file or a PIL image -> the image upright and in RGB, in its own size.

    Of several frames it is the first. The other arguments and the errors are those of `fit_bytes`; a PIL image is its
    opener's, and none of the limits is asked. A profile that is ignored stays in the result's `info`.
    """
    check_color(color)
    require_pillow()
    from PIL import Image

    with explained(name):
        if isinstance(source, Image.Image):
            image = _upright(source, name, color, owned=False)
        else:
            with opened(source, name, formats, max_pixels, max_seconds) as found:
                image = _upright(found, name, color, owned=True)
    if ignored is not None and differs(image):
        ignored.add(name)
    return image


def _upright(image: Image.Image, name: str, color: str, *, owned: bool) -> Image.Image:
    """Read an image; one that is `owned` may be given back as it is, and is closed where it is not."""
    from PIL.Image import Transpose

    if image.mode in ("I", "F"):
        raise ImageError(f"{name!r} has 32-bit grey values of unknown range (mode {image.mode}); convert it to 8-bit")
    stored = look(image)
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
    rgb = _to_rgb(image, stored, name, color, owned=owned)
    if owned and rgb is not image:
        image.close()  # so that no more than two of its size are in memory
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return what EXIF says; 1, upright, if its EXIF is damaged, as every viewer shows such an image."""
    from PIL import ExifTags

    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, stored: Stored, name: str, color: str, *, owned: bool) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name!r} has {image.width} x {image.height} pixels; expected at least one")
    profile = profile_of(image) if color == SRGB else None
    convert = None if profile is None else to_srgb(profile, image.mode, name)
    plain = stored == Stored() and not image.mode.startswith("I;16") and not image.has_transparency_data
    if plain and convert is None:
        return image if owned and image.mode == "RGB" else image.convert("RGB")
    return _by_bands(image, stored, convert)


def _by_bands(image: Image.Image, stored: Stored, convert: Callable[[Image.Image], Image.Image] | None) -> Image.Image:
    """Bring the image to 8 bits, then to sRGB, and lay what is clear over white."""
    from PIL import Image

    out = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = eight_bits(image.crop(box), stored, None if stored.low is None else stored.low.crop(box))
        if convert is not None:
            band = convert(band)
        if band.mode == "RGBA":
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        out.paste(band.convert("RGB"), (0, top))
    if convert is None and (profile := profile_of(image)) is not None:
        out.info["icc_profile"] = profile
    return out
