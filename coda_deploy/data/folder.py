"""A folder of image files, nested in any way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from coda_deploy.data.names import PackedNames
from coda_deploy.data.source import DataError, printable
from coda_runtime.images import SUFFIXES, open_rgb


@dataclass
class Found:
    """Names inside a folder, each kind sorted; ``others`` are a few of the files that are neither."""

    images: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


class FolderSource:
    """Image files in a folder; ``names`` are relative to it."""

    def __init__(self, folder: str | os.PathLike[str], names: list[str]) -> None:
        self._folder = os.fspath(folder)
        self._names = PackedNames(names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return printable(self._path(index))

    def image(self, index: int) -> Image.Image:
        return open_rgb(self._path(index), name=self.name(index))

    def _path(self, index: int) -> str:
        return str(Path(self._folder, self._names[index]))


def search(folder: Path) -> Found:
    """Every image and tar file under ``folder``, through links too. Raises ``DataError`` where it may not look."""
    found = Found()
    try:
        for name in _walk(folder, "", frozenset()):
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in SUFFIXES:
                found.images.append(name)
            elif suffix == ".tar":
                found.shards.append(name)
            elif len(found.others) < 3:
                found.others.append(name)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be searched ({error.strerror or error})") from error
    return found


def is_hidden(name: str) -> bool:
    """Whether a path with forward slashes is not to be taken for a photograph's.

    macOS leaves ``._photo.jpg`` beside every photo.jpg, in folders and in archives.
    """
    return any(piece.startswith(".") for piece in PurePosixPath(name).parts)


def _walk(folder: Path, inside: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as listing:
        entries = sorted((entry for entry in listing if not is_hidden(entry.name)), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{inside}{entry.name}/", above | {identity})
        # A broken link is an image that is not there, and told as one; pipes and devices are none.
        elif entry.is_file() or entry.is_symlink():
            yield inside + entry.name
