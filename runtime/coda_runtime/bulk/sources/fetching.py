"""Bytes of files and of ranges of files, and which failures are one image's and which are the source's."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import CodaError, ImageError, InputError, one_line
from ...io.counts import count
from ...io.regular_files import open_regular
from ...io.remote import is_local, redacted

Fetched = bytes | ImageError
"""An image's file, or why there is none."""

AT_ONCE = 16  # files fetched together, so encoded images in memory
MAX_BYTES = 1 << 30
"""Of one encoded image on this machine: no image within the pixel limit needs as many."""
_NOT_THE_FILES = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_ASKED = 8  # files that stand for a whole source
_PAUSES = (1.0, 4.0)  # seconds before the second and the third try


def read_local(path: str, name: str, root: str, others: Sequence[str] = ()) -> Fetched:
    """Read a file of this machine, whole.

    Raises InputError when `root` is gone, when the trouble is not this file's, or when none of the `others` can be read
    either.
    """
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                return ImageError(too_large(name, size))
            return file.read()
    except OSError as error:
        if _is_special(path):
            return ImageError(f"{name!r} is not a regular file; leave it out")
        if isinstance(error, FileNotFoundError):
            _check_mounted(root)
        if error.errno in _NOT_THE_FILES or not _any_can_be_read(others):
            raise InputError(
                f"{path} cannot be read now ({one_line(error)}), nor can other images; check the disk and that the "
                "folder is mounted, and run the same command again to continue"
            ) from error
        return _cannot(name, error)


def read_remote(fs: Any, paths: Sequence[str], names: Sequence[str], others: Sequence[str] = ()) -> list[Fetched]:
    """Read each file whole.

    Raises InputError when the file system fails in another way than by denying one file, and when a file is denied or
    gone and so are all `others` of the source.
    """

    def fetch(some: list[str]) -> list[Any]:
        # Not by `cat`, which takes names with * ? [ for patterns.
        return list(fs.cat_ranges(some, [None] * len(some), [None] * len(some), on_error="return"))

    def check_source(error: ImageError) -> None:
        if others and not any(isinstance(item, bytes) for item in _first_bytes(fs, others)):
            raise InputError(
                f"{error}, and other images can be read no more: check the network, the permissions and whether they "
                "have expired, and run the same command again to continue"
            ) from error

    return _remote(fetch, list(paths), names, _judge, check_source)


def read_ranges(fs: Any, path: str, ranges: Sequence[tuple[int, int]], names: Sequence[str]) -> list[bytes]:
    """Read the (offset, size) ranges of one file, in bytes.

    Raises InputError when one cannot be read as it is asked for: the trouble is the file's and none of an image's.
    """
    if is_local(fs):
        try:
            with open_regular(path) as file:
                out: list[bytes] = []
                for offset, size in ranges:
                    file.seek(offset)
                    out.append(file.read(size))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); check the disk and run again") from error
        for (_, size), found in zip(ranges, out, strict=True):
            if len(found) != size:
                raise InputError(f"{path} became shorter while it was read; put the whole file back and run again")
        return out

    def fetch(some: list[tuple[int, int]]) -> list[Any]:
        starts, ends = [offset for offset, _ in some], [offset + size for offset, size in some]
        found = fs.cat_ranges([path] * len(some), starts, ends, on_error="return")
        return [_exact(item, size, path) for item, (_, size) in zip(found, some, strict=True)]

    return _remote(fetch, list(ranges), names, lambda item, _: item, lambda _: None)


def open_file(fs: Any, path: str) -> Any:
    """Open a file of many images to read its bytes. Raises OSError, also for a pipe, or another of `fs`."""
    return open_regular(path) if is_local(fs) else fs.open(path, "rb")


def no_ranges(path: str) -> InputError:
    """Return the error for a server that sends whole files only."""
    return InputError(
        f"the server of {redacted(path)} does not answer with ranges of bytes, which .tar and Parquet files are read "
        "by: copy the files to a local disk, or to a server that knows Range requests, and run again"
    )


@contextmanager
def source_errors(path: str) -> Iterator[None]:
    """Tell whatever a file system raises as the failure of the source that it is."""
    try:
        yield
    except CodaError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{redacted(path)} cannot be opened ({one_line(error)}); check the path") from error
    except Exception as error:  # each file system's package has errors of its own
        if "range requests" in str(error):  # fsspec's ValueError
            raise no_ranges(path) from error
        raise InputError(
            f"{redacted(path)} cannot be read ({one_line(error, named=True)}); check the path, the network and the "
            "permissions, and run the same command again to continue"
        ) from error


def state(fs: Any, path: str) -> str:
    """Return size and time of change, by which a file is known to be the one that was listed. Raises InputError."""
    with source_errors(path):
        info = fs.info(path)
    if info.get("size") is None:
        raise no_ranges(path)
    times = ("mtime", "LastModified", "last_modified", "updated", "ETag")
    changed = next((info[key] for key in times if info.get(key) is not None), "")
    return f"{count(info['size'], 'byte')} {changed}".strip()


def check_state(fs: Any, path: str, expected: str) -> None:
    """Raise InputError if a file has changed since it was listed."""
    if (found := state(fs, path)) != expected:
        raise InputError(
            f"{path} has changed since the plan was made ({expected}, now {found}); put the old file back, or tokenize "
            "to another folder"
        )


def spread(files: Sequence[str]) -> tuple[str, ...]:
    """Return a few files of a source, evenly spread: while one of them can be read, the source can."""
    step = max(1, len(files) // _ASKED)
    return tuple(files[::step][:_ASKED])


def too_large(name: str, size: int) -> str:
    """Say why an encoded image of so many bytes is not read."""
    return f"{name!r} has {count(size, 'byte')}, more than the limit of {MAX_BYTES:,}; leave it out"


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


def _is_special(path: str) -> bool:
    """Return whether there is something that is no regular file."""
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return False


def _any_can_be_read(files: Sequence[str]) -> bool:
    """Return whether a byte of one of some files of this machine can be read; True where there are none to ask."""
    for file in files:
        try:
            with open_regular(file) as opened:
                opened.read(1)
                return True
        except OSError:
            continue
    return not files


def _first_bytes(fs: Any, files: Sequence[str]) -> list[Any]:
    try:
        return list(fs.cat_ranges(list(files), [0] * len(files), [1] * len(files), on_error="return"))
    except Exception as error:  # each file system's package has errors of its own
        return [error]


def _exact(item: Any, size: int, path: str) -> Any:
    """Return bytes if they are as many as were asked for, else what is wrong."""
    if not isinstance(item, (bytes, bytearray, memoryview)):
        return item
    if len(item) > size:
        raise no_ranges(path)
    return bytes(item) if len(item) == size else EOFError(f"{count(len(item), 'byte')} came instead of {size:,}")


def _remote(
    fetch: Callable[[list[Any]], list[Any]],
    wanted: list[Any],
    names: Sequence[str],
    judge: Callable[[Any, str], Any],
    check_source: Callable[[ImageError], None],
) -> list[Any]:
    """Fetch what is wanted, a few at once, three times where it fails.

    `judge` tells what is only an image's trouble, as an ImageError; then `check_source` looks whether it is so.
    """
    out: list[Any] = []
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        some_names = names[start : start + AT_ONCE]
        for pause in (*_PAUSES, None):
            with source_errors(names[start]):
                fetched = [judge(item, name) for item, name in zip(fetch(some), some_names, strict=True)]
            failed = [item for item in fetched if not isinstance(item, (bytes, ImageError))]
            if not failed:
                break
            if pause is None:
                raise InputError(
                    f"{names[start]!r} or one after it cannot be fetched ({type(failed[0]).__name__}: {failed[0]}), "
                    "but other images may be readable; run the same command again to continue"
                )
            time.sleep(pause)
        if (denied := next((item for item in fetched if isinstance(item, ImageError)), None)) is not None:
            check_source(denied)
        out += fetched
    return out


def _judge(item: Any, name: str) -> Any:
    """Return bytes, an ImageError for what is only this file's trouble, or the exception of a failing file system."""
    status = getattr(item, "status", 0)
    denied = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    if isinstance(item, (FileNotFoundError, PermissionError)) or denied:
        return _cannot(name, item)
    return bytes(item) if isinstance(item, (bytes, bytearray, memoryview)) else item


def _cannot(name: str, error: Exception) -> ImageError:
    if isinstance(error, FileNotFoundError):
        return ImageError(f"there is no image {name!r}; check the path")
    if isinstance(error, OSError):
        return ImageError(f"{name!r} cannot be read ({one_line(error)})")
    return ImageError(f"{name!r} may not be read ({one_line(error)})")
