"""Files of images: a PNG for each, or a .tar for each shard of tokens, as WebDataset reads it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..images import save_png
from ..io.atomic_files import staged_file
from ..io.filenames import png_names

Image = npt.NDArray[np.uint8]
Row = dict[str, Any]
"""A row of a token folder: `path`, `ids`, and its other columns."""


class Writer(Protocol):
    """Where images go. `shard` gives the numbers of the rows that are still to be decoded."""

    def missing(self, shard: int, rows: range) -> Sequence[int]:
        """Return which of a shard's rows have no image yet."""
        ...

    def write(self, shard: int, batches: Iterator[tuple[Sequence[int], Sequence[Row], Image]]) -> None:
        """Write a shard's images, uint8 [B,H,W,3] with their rows' numbers. Raises OutputError."""
        ...

    def files(self) -> int:
        """Return how many files the whole folder has."""
        ...


class PngFiles:
    """A PNG for each image, by the names of the images that the tokens were made of, as `coda decode` names them."""

    def __init__(self, folder: Path, paths: Sequence[str], pool: Executor) -> None:
        self._folder, self._names, self._pool = folder, png_names(paths), pool

    @property
    def names(self) -> list[str]:
        """The file of each row."""
        return self._names

    def missing(self, shard: int, rows: range) -> Sequence[int]:
        """Return the rows without a file."""
        return [row for row in rows if not (self._folder / self._names[row]).is_file()]

    def write(self, shard: int, batches: Iterator[tuple[Sequence[int], Sequence[Row], Image]]) -> None:
        """Write each image beside its place, and rename it."""
        for numbers, _, images in batches:
            list(self._pool.map(self._save, numbers, images))

    def files(self) -> int:
        """Count one for each image."""
        return len(self._names)

    def _save(self, number: int, image: Image) -> None:
        with staged_file(self._folder / self._names[number]) as beside:
            save_png(beside, image)


class TarShards:
    """A .tar for each shard of tokens: `000000012.png`, and `000000012.json` with the other columns of row 12."""

    def __init__(self, folder: Path, shards: int, pool: Executor) -> None:
        self._folder, self._shards, self._pool = folder, shards, pool

    def missing(self, shard: int, rows: range) -> Sequence[int]:
        """Return all rows of a shard that is not there whole, which is not gone on with."""
        return [] if self._path(shard).is_file() else rows

    def write(self, shard: int, batches: Iterator[tuple[Sequence[int], Sequence[Row], Image]]) -> None:
        """Write the .tar beside its place, and rename it."""
        with staged_file(self._path(shard)) as beside, tarfile.open(beside, "w") as archive:
            for numbers, rows, images in batches:
                for number, row, data in zip(numbers, rows, self._pool.map(_png, images), strict=True):
                    told = {name: value for name, value in row.items() if name != "ids"}
                    _add(archive, f"{number:09d}.png", data)
                    _add(archive, f"{number:09d}.json", json.dumps(told).encode())

    def files(self) -> int:
        """Count one for each shard."""
        return self._shards

    def _path(self, shard: int) -> Path:
        return self._folder / f"images-{shard:05d}.tar"


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    save_png(file, image)
    return file.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
