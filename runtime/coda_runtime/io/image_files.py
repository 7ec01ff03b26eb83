"""The one finder of images on this machine: which files are images by their names, and those that a folder holds.

Every command and library function that takes a folder of images asks here, so that all of them see the same ones.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ..errors import ImageError, one_line
from .omitted import Omitted

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the formats that `coda_runtime.images` reads."""

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar.zst")
_OTHER_IMAGES = """
    apng arw avif avifs blp bw cr2 cr3 cur dcm dcx dds dib dng emf eps erf exr fit fits hdr heic heics heif heifs hif
    icb icns ico j2c j2k jfi jfif jif jp2 jpc jpe jpf jpx jxl jxr mpo msp nef nrw orf pbm pcd pcx pef pfm pgm pnm psd
    pxr qoi raf ras raw rgb rgba rw2 sgi srw svg svgz tga vda vst wdp wmf xbm xcf xpm
"""
UNREAD = frozenset(f".{name}" for name in _OTHER_IMAGES.split())
"""Suffixes of other images, which are not read: files that end so are left out, counted and told."""
_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_ARCHIVES = (*COMPRESSED_TARS, ".tar", ".parquet", ".zip")


class Kind(Enum):
    """What a folder's entry is, beside its name; the value is what messages call it."""

    FILE = "file"
    HIDDEN = "hidden file"
    HIDDEN_FOLDER = "hidden folder"
    BROKEN = "broken link"
    """A symbolic link that leads nowhere, or to itself."""
    SPECIAL = "special file"
    """A pipe, a socket or a device."""


class Entry(NamedTuple):
    """A name relative to the folder that was searched, with forward slashes, and what it is."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder, in order, and what was left out. Names are relative to it, with forward slashes."""

    images: list[str] = field(default_factory=list)
    omitted: Omitted = field(default_factory=Omitted)

    def left_out(self) -> str:
        """Return what was left out in parentheses, for a message; nothing where nothing was."""
        return f" (left out: {self.omitted})" if self.omitted else ""


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
    if not name.startswith(".") and "/." not in name:  # nearly all of the millions in an archive
        return False
    return any(component.startswith(".") and component != "." for component in name.split("/"))


def is_image(name: str) -> bool:
    """Return whether a path with forward slashes, in a folder or an archive, is an image by its name."""
    return has_image_suffix(name) and not is_hidden(name)


def find_images(folder: str | os.PathLike[str]) -> FoundImages:
    """Find the images in a folder, nested in any way: see `walk` for links and order.

    Raises ImageError where it may not be searched; a folder without images is no error here.
    """
    found = FoundImages()
    try:
        for entry in walk(folder):
            if entry.kind is Kind.FILE and has_image_suffix(entry.name):
                found.images.append(entry.name)
            elif (why := omitted_as(entry, archives=True)) is not None:
                found.omitted.add(why, entry.name)
    except OSError as error:
        raise ImageError(
            f"{error.filename or folder} cannot be searched ({one_line(error)}); check the path and its permissions"
        ) from error
    return found


def omitted_as(entry: Entry, *, archives: bool) -> str | None:
    """Return as what an entry that is no image is counted; None for what nobody would miss.

    That is what has the suffix of an image, or of one that is not read, and links that lead nowhere, which may
    have been folders of images. With `archives` it is also .tar and Parquet files, for who reads none. What macOS
    leaves beside images (`._photo.jpg`) holds none.
    """
    name, kind = entry
    called: str = kind.value
    if posixpath.basename(name).startswith("._"):
        return None
    if kind in (Kind.BROKEN, Kind.HIDDEN_FOLDER):
        return called
    suffix = unread_suffix(name, archives=archives)
    if kind is Kind.FILE:
        return suffix
    return called if suffix is not None or has_image_suffix(name) else None


def unread_suffix(name: str, *, archives: bool = False) -> str | None:
    """Return the suffix by which a file is an image that is not read, with `archives` also one that may hold some."""
    lower = name.lower()
    suffix = posixpath.splitext(lower)[1]
    if suffix in UNREAD:
        return suffix
    ends = _ARCHIVES if archives else COMPRESSED_TARS
    return next(end for end in ends if lower.endswith(end)) if lower.endswith(ends) else None


def count_omitted(names: Iterable[str], omitted: Omitted, *, inside: str) -> None:
    """Count those members of an archive that are hidden, or images that are not read."""
    for name in names:
        kind = Kind.HIDDEN if is_hidden(name) else Kind.FILE
        if (why := omitted_as(Entry(name, kind), archives=False)) is not None:
            omitted.add(why, f"{inside}/{name}")


def walk(folder: str | os.PathLike[str]) -> Iterator[Entry]:
    """Yield what is in a folder and the folders in it, sorted by name in each; millions of files take little memory.

    Links to folders are followed, but each folder is searched once: one that also lies in `folder` itself under its own
    name, or under the first link to it. So links may form loops, and no image comes twice. Hidden folders are not
    searched, and are told like all entries that are no folders by their kind. Raises OSError.
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
            hidden_folder = entry.is_dir(follow_symlinks=False)
            yield Entry(name, Kind.HIDDEN_FOLDER if hidden_folder else Kind.HIDDEN)
        elif entry.is_symlink() and _leads_nowhere(entry.path):
            yield Entry(name, Kind.BROKEN)
        elif entry.is_dir():
            if not (entry.is_symlink() and visited.comes_anyway(entry.path)):
                yield from _walk(entry.path, f"{name}/", visited)
        elif entry.is_file():
            yield Entry(name, Kind.FILE)
        else:
            yield Entry(name, Kind.SPECIAL)


def _leads_nowhere(link: str) -> bool:
    try:
        os.stat(link)  # noqa: PTH116 - millions of files: no Path for each
    except OSError as error:
        if error.errno in _NOWHERE:
            return True
        raise
    return False
