"""WebDataset shards: tar files of images, read at random by an index that is made once."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from coda_deploy.data.names import PackedNames
from coda_deploy.data.source import printable
from coda_deploy.errors import DataError
from coda_runtime.bulk.tars import expand_braces, members
from coda_runtime.errors import ImageError, InputError, one_line
from coda_runtime.format.color import STORED
from coda_runtime.images import open_rgb
from coda_runtime.io.image_files import expected_suffixes, is_image
from coda_runtime.io.omitted import Omitted

_OPEN_SHARDS = 64  # in each process; thousands would run into the limit on open files

# Size and time of change: by these a shard is known to be the one that was indexed.
_State = tuple[int, int]


class ShardSource:
    """The image members of tar files, in the order of the files and of the members in them.

    What of them is no image that can be read is counted in ``omitted``.
    The headers of all shards are read at once, which takes about a second for 20 000 members. Raises ``DataError`` for
    a shard that is missing, cut or damaged, and when they hold no image.
    """

    def __init__(self, paths: Sequence[str], omitted: Omitted | None = None, color: str = STORED) -> None:
        self._paths, self._color = tuple(paths), color
        omitted = Omitted() if omitted is None else omitted
        self._states: list[_State] = []
        names: list[str] = []
        locations = []
        for shard, path in enumerate(self._paths):
            state, images = _index(path, omitted)
            self._states.append(state)
            names += [name for name, _, _ in images]
            locations += [np.array([(shard, offset, size) for _, offset, size in images], np.int64).reshape(-1, 3)]
        if not names:
            told = f" (left out: {omitted})" if omitted else ""
            raise DataError(f"{_count(self._paths)} no images{told}; expected members ending in {expected_suffixes()}")
        self._names = PackedNames(names)
        self._locations = np.concatenate(locations)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return printable(f"{self._paths[self._locations[index, 0]]}/{self._names[index]}")

    def image(self, index: int) -> Image.Image:
        shard, offset, size = self._locations[index].tolist()
        name = self.name(index)
        # By process: a forked worker must not move the offset at which its parent reads.
        file = _opened(self._paths[shard], self._states[shard], os.getpid())
        try:
            encoded = file.read_at(offset, size)
        except OSError as error:
            raise ImageError(f"{name!r} cannot be read ({one_line(error)})") from error
        return open_rgb(io.BytesIO(encoded), name=name, color=self._color)


def expand(pattern: str) -> list[str]:
    """Return the shards that a pattern with ``*``, ``?``, ``[...]``, ``{000..012}`` or ``{a,b}`` matches, in order.

    Raises ``DataError`` when one of them is missing or is not a .tar file.
    """
    paths: list[str] = []
    for piece in expand_braces(pattern):
        # A name that exists is that file, whatever characters are in it.
        matches = [piece] if Path(piece).exists() else sorted(glob.glob(piece, recursive=True))  # noqa: PTH207 - absolute
        if not matches:
            of = f", of {pattern!r}" if piece != pattern else ""
            raise DataError(f"there is no shard {piece!r}{of}; check the path and the range")
        paths += matches
    for path in paths:
        if not path.lower().endswith(".tar"):
            raise DataError(f"{path!r}, of {pattern!r}, is not a .tar shard; to read a folder of images, give its name")
    return paths


def _index(path: str, omitted: Omitted) -> tuple[_State, list[tuple[str, int, int]]]:
    """Return what identifies a shard, and (name, offset, size) of each image in it."""
    try:
        with Path(path).open("rb") as file:
            state = _state(file.fileno())
            return state, [member for member in members(file, state[0], path, omitted) if is_image(member[0])]
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({one_line(error)}); check the path") from error
    except InputError as error:
        raise DataError(str(error)) from error


def _state(descriptor: int) -> _State:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


class _Shard:
    """A shard that is open for reading, from any thread of its process."""

    def __init__(self, path: str, state: _State) -> None:
        try:
            self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed in __del__
        except OSError as error:
            raise DataError(f"{path} can no longer be opened ({one_line(error)})") from error
        if _state(self._file.fileno()) != state:
            raise DataError(f"{path} has changed since the run began; leave the shards alone while a run reads them")
        self._lock = Lock()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read_at(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)


@lru_cache(maxsize=_OPEN_SHARDS)
def _opened(path: str, state: _State, process: int) -> _Shard:
    return _Shard(path, state)


def _count(paths: Sequence[str]) -> str:
    return f"{paths[0]} holds" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more shards hold"
