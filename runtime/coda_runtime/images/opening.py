"""Files that nobody vouches for, opened: which formats, how many pixels, and every failure as an ImageError."""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import ImageError, MissingDependencyError, one_line
from ..io.regular_files import open_regular
from .budget import MAX_SECONDS, BudgetedFile
from .limits import MAX_SIDE, excess
from .unpacking import unpack

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; JPEG includes the MPO of phones. Of the others, one starts Ghostscript
(EPS), and most are rare, so that few have looked for holes in their decoders."""
MAX_PIXELS = 89_478_485
"""Width times height of the largest file that is read: 0.36 GB once decoded. It is where Pillow begins to warn."""

_OWN_WAY = "in Python open it yourself and pass the PIL image"
_PILLOW = r"PIL\."
_SILENT = ("ignore", None, UserWarning, re.compile(_PILLOW), 0)  # as it stands among the filters
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


@contextmanager
def opened(
    source: str | os.PathLike[str] | IO[bytes],
    name: str,
    formats: Sequence[str] | None,
    max_pixels: int | None,
    max_seconds: float | None,
) -> Iterator[Image.Image]:
    """Open a path or a file for the length of a block, its header read and none of its pixels.

    Arguments and errors are those of `fit_bytes`; the block's errors are for `explained`.
    """
    seconds, advice = (MAX_SECONDS, f", or {_OWN_WAY}") if max_seconds is None else (max_seconds, "")
    if isinstance(source, (str, os.PathLike)):
        with _open_file(source, name) as file:
            yield _identify(BudgetedFile(file, name, seconds, advice), name, formats, max_pixels)
    else:
        yield _identify(BudgetedFile(source, name, seconds, advice), name, formats, max_pixels)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError that names the image."""
    from PIL import Image

    _silence()
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        advice = "it is a URL: download it" if "://" in str(name) else "check the path"
        raise ImageError(f"there is no image {name!r}; {advice}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name!r} has too many pixels to be safe ({error}); scale it down") from error
    except MemoryError as error:
        raise ImageError(f"there is not enough memory to decode {name!r}; scale it down") from error
    except OSError as error:
        advice = "is it cut?" if error.errno is None else "check the file"  # only the system's have a number
        raise ImageError(f"{name!r} cannot be read as an image ({one_line(error)}); {advice}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise ImageError(f"{name!r} cannot be decoded ({one_line(error, named=True)}); is it damaged?") from error


def require_pillow() -> Any:
    """Import PIL.Image. Raises MissingDependencyError."""
    try:
        from PIL import Image
    except ImportError as error:
        why = "reading and resizing images needs Pillow, which is not installed"
        raise MissingDependencyError(why, "pillow", extra="images") from error
    return Image


def _open_file(source: str | os.PathLike[str], name: str) -> IO[bytes]:
    """Open a path, unless that would wait for a writer (a pipe) or never end (/dev/zero)."""
    path = Path(source)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise ImageError(f"{name!r} cannot be read as an image: it is {kind}; expected a file")
    return open_regular(path)  # a pipe may have taken its place meanwhile


def _identify(file: BudgetedFile, name: str, formats: Sequence[str] | None, max_pixels: int | None) -> Image.Image:
    """Call Image.open, which has only a global limit, and warns of half of what is over that."""
    from PIL import Image

    Image.preinit()
    prefix = file.read(16)
    if not prefix:
        raise ImageError(f"{name!r} is not an image: it is empty; check where it comes from")
    for wanted in FORMATS if formats is None else formats:
        if wanted not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[wanted]
        verdict = accept is None or accept(prefix)
        if isinstance(verdict, str):
            raise ImageError(f"{name!r}: {verdict}; install a Pillow that has it, or convert it to PNG or JPEG")
        if not verdict:
            continue
        if (problem := excess(wanted, file)) is not None:
            raise ImageError(
                f"{name!r} {problem}: it would take very long to decode; save it again with another program"
            )
        file.seek(0)
        try:
            # Without the file's name: by it Pillow maps plain pixels, and a file cut meanwhile would end the process.
            opened_file: Any = file
            image = factory(opened_file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # "this is not mine after all"
            continue
        _check_size(image, name, max_pixels)
        unpack(image, file)
        return image
    allowed, advice = (FORMATS, f", or {_OWN_WAY}") if formats is None else (formats, "")
    raise ImageError(
        f"{name!r} is not an image that Pillow can read as {', '.join(allowed)}; convert it to PNG or JPEG{advice}"
    )


def _silence() -> None:
    """Take no warnings from Pillow's readers: of damaged EXIF they write a line for each tag, up to 65,535 of them.

    Each of them is another text, so that Python shows all and keeps all. What is wrong with the pixels is an error.
    """
    # Twice does no harm, so there is no lock: one that another thread holds at a fork is held in the child for ever.
    if _SILENT not in warnings.filters:  # whoever catches warnings may have put all filters away
        warnings.filterwarnings("ignore", category=UserWarning, module=_PILLOW)


def _check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    from PIL import Image as Pillow

    limit = min(MAX_PIXELS, Pillow.MAX_IMAGE_PIXELS or MAX_PIXELS) if max_pixels is None else max_pixels
    if image.width * image.height > limit:
        advice = f", or {_OWN_WAY}" if max_pixels is None else ""
        raise ImageError(
            f"{name!r} has too many pixels to be safe, {image.width} x {image.height}: {limit} is the limit "
            f"here; scale it down{advice}"
        )
    if max(image.size) > MAX_SIDE:
        raise ImageError(
            f"{name!r} has {image.width} x {image.height} pixels, and no side may have more than {MAX_SIDE}; cut it "
            "into pieces"
        )
