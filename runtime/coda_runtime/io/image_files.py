"""The one finder of images on this machine: which files are images by their names, and those that a folder holds.

Every command and library function that takes a folder of images asks here, so that all of them see the same ones.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import ImageError, one_line

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the formats that `coda_runtime.images` reads."""


class Kind(Enum):
    """What a folder's entry is, beside its name."""

    FILE = "file"
    HIDDEN = "hidden"
    BROKEN = "broken"
    """A symbolic link to a file that does not exist."""
    SPECIAL = "special"
    """A pipe, a socket or a device."""


class Entry(NamedTuple):
    """A name relative to the folder that was searched, with forward slashes, and what it is."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder, in order, and those names with an image's suffix that are none.

    All are relative to the folder, with forward slashes.
    """

    images: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    def left_out(self) -> str:
        """Return how many names were left out, and why, in parentheses for a message; nothing where none was."""
        kinds = (("hidden", self.hidden), ("links to nowhere", self.broken), ("pipes or devices", self.special))
        told = [f"{len(names)} {what}" for what, names in kinds if names]
        return f" (left out: {', '.join(told)})" if told else ""


def expected_suffixes() -> str:
    """Return the suffixes as messages list them."""
    return " ".join(sorted(SUFFIXES))


def has_image_suffix(name: str) -> bool:
    """Return whether a file of this name is an image, hidden or not."""
    return posixpath.splitext(name)[1].lower() in SUFFIXES  # a third of the time that a Path takes


def is_hidden(name: str) -> bool:
    """Return whether a path with forward slashes is hidden, or lies in a hidden folder.

    macOS leaves `._photo.jpg` (AppleDouble, no image) beside every photo.jpg, in folders and in archives.
    """
    return any(component.startswith(".") for component in PurePosixPath(name).parts)


def is_image(name: str) -> bool:
    """Return whether a path with forward slashes, in a folder or an archive, is an image by its name."""
    return has_image_suffix(name) and not is_hidden(name)


def find_images(folder: str | os.PathLike[str]) -> FoundImages:
    """Find the images in a folder, nested in any way: see `walk` for links and order.

    Raises ImageError where it may not be searched; a folder without images is no error here.
    """
    found = FoundImages()
    lists = {
        Kind.FILE: found.images,
        Kind.HIDDEN: found.hidden,
        Kind.BROKEN: found.broken,
        Kind.SPECIAL: found.special,
    }
    try:
        for name, kind in walk(folder):
            if has_image_suffix(name):
                lists[kind].append(name)
    except OSError as error:
        raise ImageError(
            f"{error.filename or folder} cannot be searched ({one_line(error)}); check the path and its permissions"
        ) from error
    return found


def walk(folder: str | os.PathLike[str]) -> Iterator[Entry]:
    """Yield what is in a folder and the folders in it, sorted by name in each; millions of files take little memory.

    Links to folders are followed, but each folder is searched once: one that also lies in `folder` itself under its own
    name, or under the first link to it. So links may form loops, and no image comes twice. Hidden folders are not
    searched; other entries are told by their kind. Raises OSError.
    """
    root = Path(folder)
    yield from _walk(os.fspath(root), "", _Visited(os.path.realpath(root)))


class _Visited:
    """Which folders are not to be searched again."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen: set[tuple[int, int]] = set()

    def first_time(self, folder: str) -> bool:
        status = os.stat(folder)  # noqa: PTH116 - millions of folders: no Path for each
        identity = (status.st_dev, status.st_ino)
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def comes_anyway(self, link: str) -> bool:
        """Return whether what a link leads to is in the folder that is searched, and found there under its own name."""
        target = os.path.realpath(link)
        if target == self._root:
            return True
        inside = target.removeprefix(os.path.join(self._root, ""))  # noqa: PTH118
        return inside != target and not is_hidden(Path(inside).as_posix())


def _walk(folder: str, inside: str, visited: _Visited) -> Iterator[Entry]:
    if not visited.first_time(folder):
        return
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        name = inside + entry.name
        if entry.name.startswith("."):
            if not entry.is_dir(follow_symlinks=False):
                yield Entry(name, Kind.HIDDEN)
        elif entry.is_dir():
            if not (entry.is_symlink() and visited.comes_anyway(entry.path)):
                yield from _walk(entry.path, f"{name}/", visited)
        elif entry.is_file():
            yield Entry(name, Kind.FILE)
        else:
            yield Entry(name, Kind.BROKEN if entry.is_symlink() and not os.path.exists(entry.path) else Kind.SPECIAL)  # noqa: PTH110
