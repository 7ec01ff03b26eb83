"""Files that somebody else may have put there: opened once, and only where a read comes back and has an end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from .counts import count


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read its bytes. Raises OSError, also for a pipe or a device, which might never end."""
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115 - handed to the caller
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    except BaseException:
        file.close()
        raise
    return file


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a file of at most `max_bytes`. Raises OSError, also for a larger one and for a pipe or a device."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            found = os.fstat(file.fileno()).st_size
            raise OSError(errno.EFBIG, f"it has {count(found, 'byte')}, and at most {max_bytes:,} are read", str(path))
    return data
