"""A folder that one run at a time works in: held by a file in it, and free as soon as that run's process has ended."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_guard = threading.Lock()
_held: dict[str, int] = {}
"""The locks of this process by their real paths, with its number, which a forked child does not have."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def held_folder(folder: Path, name: str) -> Iterator[Path]:
    """Keep others out of a folder while the block runs, threads of this process too, and yield the path of the lock.

    The folder is made, and taken away again where the block leaves nothing in it; so is the lock, the file `name`. It
    is the process's own, not that of the processes that it started, which may outlive it by seconds. Where the system
    or the file system has no locks, others in this process alone are kept out.

    Raises BlockingIOError, which names the holder, and OSError where the folder cannot be written.
    """
    path = folder / name
    real = os.path.realpath(path)
    # The system lets a process have its own lock twice, and takes it away as soon as either file is closed.
    with _guard:
        if _held.get(real) == os.getpid():
            raise BlockingIOError(errno.EAGAIN, "this very process", str(path))
        _held[real] = os.getpid()
    made = [missing for missing in (folder, *folder.parents) if not missing.exists()]
    try:
        with _lock(path):
            try:
                yield path
            finally:
                with suppress(OSError):
                    path.unlink()  # while it is held, so that nobody else's goes
    finally:
        with _guard:
            del _held[real]
        with suppress(OSError):  # from the first that is in use on
            for missing in made:
                missing.rmdir()


def _lock(path: Path) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            _acquire(file)
            if _is_at(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                return file
            file.close()
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            file.close()
            raise BlockingIOError(error.errno, holder, str(path)) from error
        except BaseException:
            file.close()
            raise


def _is_at(file: IO[str], path: Path) -> bool:
    """Return whether an open file is still what lies there: who held it may have taken it away meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _acquire(file: IO[str]) -> None:
    """Take the lock or raise BlockingIOError; nothing where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, error.strerror) from error
        if error.errno not in _NO_LOCKS:
            raise
