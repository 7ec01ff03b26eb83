"""ICC profiles: counted where they are ignored, and the way to sRGB where they are not."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, one_line
from ..io.counts import count, plural

if TYPE_CHECKING:
    from PIL import Image

MAX_PROFILE = 8 << 20
"""Bytes; a printer's has 1 to 3 MB."""

_SRGB = tuple("sRGB".encode(encoding) for encoding in ("ascii", "utf-16-be"))
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode for the values that a profile of each colour space is about."""
_MAY_BE = {"RGB": "an RGB", "L": "a grey", "CMYK": "a CMYK"}


class IgnoredProfiles:
    """Counts images whose profile says other colours than sRGB's, and is ignored. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.first = ""

    def add(self, name: str, count: int = 1) -> None:
        """Count an image, or several of which this is the first."""
        with self._lock:
            self.first = self.first or name
            self.count += count

    def warning(self) -> str:
        """Tell of them in one line; nothing where there are none."""
        if not self.count:
            return ""
        many = f"{count(self.count, 'image')} {plural(self.count, 'has', 'have')} a colour profile"
        first = f" (the first: {self.first})" if self.first else ""
        return (
            f"{many} other than sRGB{first}, which is ignored: the values are taken as if they were sRGB's, as the "
            'published tokenizers do; color="srgb", --color srgb, converts them by it, and gives other ids'
        )


def profile_of(image: Image.Image) -> bytes | None:
    """Return the ICC profile of an image, None where it has none."""
    found = image.info.get("icc_profile")
    return found if isinstance(found, bytes) and found else None


def differs(image: Image.Image) -> bool:
    """Return whether an image has a profile that does not call itself sRGB. It is not parsed: nobody asked for it."""
    profile = profile_of(image)
    return profile is not None and not any(name in profile for name in _SRGB)


def to_srgb(profile: bytes, mode: str, name: str) -> Callable[[Image.Image], Image.Image]:
    """Return what turns 8-bit pieces of an image of some mode into RGB, or RGBA where they have an alpha channel.

    Relative colorimetric, with black point compensation: every colour that sRGB holds stays what it is, whoever made
    the profile, where the perceptual tables, which few profiles have, differ from maker to maker; and the black of a
    printer becomes black.

    Raises ImageError for a profile that is damaged, or about other values than the image has.
    """
    if len(profile) > MAX_PROFILE:
        raise ImageError(_broken(name, f"it has {count(len(profile), 'byte')}, more than the limit of {MAX_PROFILE:,}"))
    try:
        takes, transform = _transform(profile)
    except Exception as error:  # PyCMSError, OSError, ValueError, by what LittleCMS stumbled over
        raise ImageError(_broken(name, one_line(error))) from error
    is_grey = mode in ("1", "L", "LA", "La") or mode.startswith("I;16")
    if (mode == "CMYK") != (takes == "CMYK") or (takes == "L" and not is_grey):
        raise ImageError(_broken(name, f"it is {_MAY_BE[takes]} profile, and the image is of mode {mode}"))

    def convert(piece: Image.Image) -> Image.Image:
        from PIL import ImageCms

        out = ImageCms.applyTransform(piece.convert(takes), transform)
        if out is None:
            raise ImageError(_broken(name, "LittleCMS gave nothing"))
        if piece.mode == "RGBA":
            out.putalpha(piece.getchannel("A"))
        return out

    return convert


@lru_cache(maxsize=8)
def _transform(profile: bytes) -> tuple[str, Any]:
    """Return the mode that a profile is about, and the transform from there to RGB, which many threads may use."""
    from PIL import ImageCms

    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if space not in _MODES:
        raise ValueError(f"its colour space is {space}, expected one of {', '.join(_MODES)}")
    transform = ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        _MODES[space],
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return _MODES[space], transform


def _broken(name: str, why: str) -> str:
    return (
        f"{name!r} has a colour profile that cannot be used ({why}); save the image again in sRGB, or read it by "
        'color="stored", which ignores profiles'
    )
