"""A folder of image files, nested in any way."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from coda_deploy.data.names import PackedNames
from coda_deploy.data.source import printable
from coda_deploy.errors import DataError
from coda_runtime.errors import one_line
from coda_runtime.format.color import STORED
from coda_runtime.images import open_rgb
from coda_runtime.io.image_files import Kind, has_image_suffix, omitted_as, walk
from coda_runtime.io.omitted import Omitted


@dataclass
class Found:
    """Names inside a folder, each kind sorted; ``others`` are a few of the files that are neither.

    ``omitted`` counts what somebody would miss.
    """

    images: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    omitted: Omitted = field(default_factory=Omitted)


class FolderSource:
    """Image files in a folder; ``names`` are relative to it."""

    def __init__(self, folder: str | os.PathLike[str], names: list[str], color: str = STORED) -> None:
        self._folder, self._color = os.fspath(folder), color
        self._names = PackedNames(names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return printable(self._path(index))

    def image(self, index: int) -> Image.Image:
        return open_rgb(self._path(index), name=self.name(index), color=self._color)

    def _path(self, index: int) -> str:
        return str(Path(self._folder, self._names[index]))


def search(folder: Path, mark: Path | None = None) -> Found:
    """Find every image and tar file under ``folder``. Raises ``DataError`` where it may not look.

    ``mark`` is a hidden file in a folder that must not be among those searched, by links either.
    """
    found = Found()
    try:
        for entry in walk(folder):
            name, kind = entry
            if mark is not None and kind is Kind.HIDDEN and _is_mark(folder / name, mark):
                raise DataError(
                    f"--out {mark.parent} lies in {folder}, whose images are the training's, so that it would learn "
                    "from its own sample grids: choose an --out outside of it"
                )
            # A link to nowhere is an image that is not there, and told as one when its turn comes.
            there = kind in (Kind.FILE, Kind.BROKEN)
            if there and has_image_suffix(name):
                found.images.append(name)
            elif there and PurePosixPath(name).suffix.lower() == ".tar":
                found.shards.append(name)
            else:
                if (why := omitted_as(entry, archives=True)) is not None:
                    found.omitted.add(why, name)
                if there and len(found.others) < 3:
                    found.others.append(name)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be searched ({one_line(error)})") from error
    return found


def _is_mark(path: Path, mark: Path) -> bool:
    return path.name == mark.name and path.samefile(mark)
