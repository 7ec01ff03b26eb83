"""Bytes of files and of ranges of files, and which failures are one image's and which are the source's."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import ImageError, InputError, one_line
from ...io.remote import is_local

Fetched = bytes | ImageError
"""An image's file, or why there is none."""

AT_ONCE = 16  # files fetched together, so encoded images in memory
MAX_BYTES = 1 << 30
"""Of one encoded image on this machine: no image within the pixel limit needs as many."""
_NOT_THE_FILES = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_PAUSES = (1.0, 4.0)  # seconds before the second and the third try


def read_local(path: str, name: str, root: str) -> Fetched:
    """Read a file of this machine, whole. Raises InputError when `root` is gone, or the trouble is not this file's."""
    file = Path(path)
    try:
        if not file.is_file() and file.exists():  # reading a pipe would wait for ever
            return ImageError(f"{name!r} is not a regular file; leave it out")
        if (size := file.stat().st_size) > MAX_BYTES:
            return ImageError(too_large(name, size))
        return file.read_bytes()
    except FileNotFoundError:
        _check_mounted(root)
        return ImageError(f"there is no image {name!r}; check the path")
    except OSError as error:
        if error.errno in _NOT_THE_FILES:
            raise InputError(
                f"{path} cannot be read now ({one_line(error)}), nor can other images; run the same command again "
                "to continue"
            ) from error
        return ImageError(f"{name!r} cannot be read ({one_line(error)})")


def read_remote(fs: Any, paths: Sequence[str], names: Sequence[str]) -> list[Fetched]:
    """Read each file whole. Raises InputError when the file system fails in another way than by denying one file."""

    def fetch(some: list[str]) -> list[Any]:
        # Not by `cat`, which takes names with * ? [ for patterns.
        return list(fs.cat_ranges(some, [None] * len(some), [None] * len(some), on_error="return"))

    return _remote(fetch, list(paths), names)


def read_ranges(fs: Any, path: str, ranges: Sequence[tuple[int, int]], names: Sequence[str]) -> list[Fetched]:
    """Read the (offset, size) ranges of one file, in bytes.

    Raises as `read_remote` does, and when a local file fails.
    """
    if is_local(fs):
        try:
            with Path(path).open("rb", buffering=0) as file:
                out: list[Fetched] = []
                for offset, size in ranges:
                    file.seek(offset)
                    out.append(file.read(size))
                return out
        except OSError as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); check the disk and run again") from error

    def fetch(some: list[tuple[int, int]]) -> list[Any]:
        starts, ends = [offset for offset, _ in some], [offset + size for offset, size in some]
        return list(fs.cat_ranges([path] * len(some), starts, ends, on_error="return"))

    return _remote(fetch, list(ranges), names)


def state(fs: Any, path: str) -> str:
    """Return size and time of change, by which a file is known to be the one that was listed. Raises InputError."""
    try:
        info = fs.info(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({one_line(error)}); check the path") from error
    times = ("mtime", "LastModified", "last_modified", "updated", "ETag")
    changed = next((info[key] for key in times if info.get(key) is not None), "")
    return f"{info['size']} bytes {changed}".strip()


def check_state(fs: Any, path: str, expected: str) -> None:
    """Raise InputError if a file has changed since it was listed."""
    if (found := state(fs, path)) != expected:
        raise InputError(
            f"{path} has changed since the plan was made ({expected}, now {found}); put the old file back, or tokenize "
            "to another folder"
        )


def too_large(name: str, size: int) -> str:
    """Say why an encoded image of so many bytes is not read."""
    return f"{name!r} has {size} bytes, more than the limit of {MAX_BYTES}; leave it out"


def _check_mounted(root: str) -> None:
    """Raise InputError unless there is something in a folder of this machine."""
    try:
        with os.scandir(root or "/") as found:
            if next(found, None) is not None:
                return
    except OSError:
        pass
    raise InputError(
        f"{root} does not exist, or is empty, on the node {socket.gethostname()}; mount it, and run the same command "
        "again to continue"
    )


def _remote(fetch: Callable[[list[Any]], list[Any]], wanted: list[Any], names: Sequence[str]) -> list[Fetched]:
    out: list[Fetched] = []
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        some_names = names[start : start + AT_ONCE]
        for pause in (*_PAUSES, None):
            fetched = [_judge(item, name) for item, name in zip(fetch(some), some_names, strict=True)]
            failed = [item for item in fetched if not isinstance(item, (bytes, ImageError))]
            if not failed:
                break
            if pause is None:
                raise InputError(
                    f"{names[start]!r} or one after it cannot be fetched ({type(failed[0]).__name__}: {failed[0]}), "
                    "but other images may be readable; run the same command again to continue"
                )
            time.sleep(pause)
        out += [item for item in fetched if isinstance(item, (bytes, ImageError))]
    return out


def _judge(item: Any, name: str) -> Any:
    """Return bytes, an ImageError for what is only this file's trouble, or the exception of a failing file system."""
    if isinstance(item, FileNotFoundError):
        return ImageError(f"there is no image {name!r}; check the path")
    status = getattr(item, "status", 0)
    denied = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    if isinstance(item, PermissionError) or denied:
        return ImageError(f"{name!r} may not be read ({item})")
    return bytes(item) if isinstance(item, (bytes, bytearray, memoryview)) else item
