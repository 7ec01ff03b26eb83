"""Bytes of files and of pieces of files, and which failures are one image's and which are the source's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import ImageError, InputError
from ..places import is_local

Fetched = bytes | ImageError
"""An image's file, or why there is none."""

AT_ONCE = 16  # files fetched together, so encoded images in memory
_PAUSES = (1.0, 4.0)  # seconds before the second and the third try


def read_files(fs: Any, paths: Sequence[str], names: Sequence[str]) -> list[Fetched]:
    """Each file whole. Raises InputError when a remote file system fails in another way than by denying one file."""
    if is_local(fs):
        return [_read_local(path, name) for path, name in zip(paths, names, strict=True)]
    return _remote(lambda some: list(fs.cat(some, on_error="return").values()), list(paths), names)


def read_pieces(fs: Any, path: str, places: Sequence[tuple[int, int]], names: Sequence[str]) -> list[Fetched]:
    """The (offset, size) pieces of one file, sizes in bytes. Raises as `read_files`, and when a local file fails."""
    if is_local(fs):
        try:
            with Path(path).open("rb", buffering=0) as file:
                out: list[Fetched] = []
                for offset, size in places:
                    file.seek(offset)
                    out.append(file.read(size))
                return out
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror or error}); check the disk and run again"
            ) from error

    def fetch(some: list[tuple[int, int]]) -> list[Any]:
        starts, ends = [offset for offset, _ in some], [offset + size for offset, size in some]
        return list(fs.cat_ranges([path] * len(some), starts, ends, on_error="return"))

    return _remote(fetch, list(places), names)


def state(fs: Any, path: str) -> str:
    """Size and time of change, by which a file is known to be the one that was listed. Raises InputError."""
    try:
        info = fs.info(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror or error}); check the path") from error
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


def _read_local(path: str, name: str) -> Fetched:
    file = Path(path)
    try:
        if not file.is_file() and file.exists():  # reading a pipe would wait for ever
            return ImageError(f"{name!r} is no regular file; leave it out")
        return file.read_bytes()
    except FileNotFoundError:
        return ImageError(f"there is no image {name!r}; check the path")
    except OSError as error:
        return ImageError(f"{name!r} cannot be read ({error.strerror or error})")


def _remote(fetch: Callable[[list[Any]], list[Any]], wanted: list[Any], names: Sequence[str]) -> list[Fetched]:
    out: list[Fetched] = []
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        for pause in (*_PAUSES, None):
            fetched = [_judge(item, name) for item, name in zip(fetch(some), names[start:], strict=False)]
            failed = [item for item in fetched if not isinstance(item, (bytes, ImageError))]
            if not failed:
                break
            if pause is None:
                raise InputError(
                    f"{names[start]!r} or one after it cannot be fetched ({type(failed[0]).__name__}: {failed[0]}), "
                    "and other images may be readable; run the same command again to go on"
                )
            time.sleep(pause)
        out += [item for item in fetched if isinstance(item, (bytes, ImageError))]
    return out


def _judge(item: Any, name: str) -> Any:
    """Bytes, an ImageError for what is only this file's trouble, or the exception of a file system in trouble."""
    if isinstance(item, FileNotFoundError):
        return ImageError(f"there is no image {name!r}; check the path")
    status = getattr(item, "status", 0)
    if isinstance(item, PermissionError) or (400 <= status < 500 and status not in (408, 429)):
        return ImageError(f"{name!r} may not be read ({item})")
    return bytes(item) if isinstance(item, (bytes, bytearray, memoryview)) else item
