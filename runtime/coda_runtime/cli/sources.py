"""The images that a command was given: files as they are, folders searched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, InputError
from ..io.image_files import expected_suffixes, find_images
from .base import warn


@dataclass(frozen=True)
class Source:
    """An image file and the relative name, with forward slashes, that it goes by in results."""

    path: Path
    name: str


def collect(paths: Sequence[Path]) -> list[Source]:
    """Find every image among files and folders, folders in sorted order; tell on stderr what folders have beside.

    Raises ImageError for a missing or empty one.
    """
    out: list[Source] = []
    for path in paths:
        if path.is_dir():
            out += _search(path)
        elif path.exists():
            inside = not path.is_absolute() and ".." not in path.parts
            out.append(Source(path, _printable(path.as_posix() if inside else path.name)))
        else:
            raise ImageError(f"there is no file or folder {str(path)!r}; check the path")
    return out


def keep_sources(sources: Sequence[Source], targets: Iterable[Path]) -> None:
    """Raise InputError if writing the targets would overwrite one of the images."""
    taken = {os.path.realpath(source.path) for source in sources}
    for target in targets:
        if os.path.realpath(target) in taken:
            raise InputError(
                f"{target} is one of the images, and writing there would overwrite it; choose another --out"
            )


def warn_of_omitted(folder: Path | None) -> None:
    """Tell on stderr what of a folder of images is left out, for commands whose library searches it."""
    if folder is not None and folder.is_dir():
        warn(find_images(folder).omitted.warning(folder))


def keep_existing(folder: Path, names: Iterable[str], *, force: bool) -> None:
    """Raise InputError if writing files of these names would replace one that is there, unless that is wanted.

    A picture goes by the name of the image that it was made of, so the folder of those images holds it too.
    """
    there = [] if force else [name for name in names if os.path.lexists(folder / name)]
    if there:
        more = f" and {len(there) - 1} more of the pictures' names" if len(there) > 1 else ""
        raise InputError(
            f"{folder} holds {_printable(there[0])!r}{more} already; choose another --out, or replace with --force"
        )


def _search(folder: Path) -> list[Source]:
    found = find_images(folder)
    if not found.images:
        raise ImageError(
            f"the folder {str(folder)!r} has no images{found.left_out()}; expected files ending in "
            f"{expected_suffixes()}"
        )
    warn(found.omitted.warning(folder))
    return [Source(folder / name, _printable(name)) for name in found.images]


def _printable(name: str) -> str:
    """Return a name without the stand-ins for bytes that are not UTF-8, which no file format of ours can hold."""
    return os.fsencode(name).decode(errors="replace")
