"""The folder of a run: one training at a time, and never among the images that it learns from."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from coda_deploy.errors import DataError
from coda_deploy.train.checkpoint import FOLDER
from coda_runtime.errors import OutputError, one_line

LOCK = ".training.lock"
SAMPLES = "pictures"


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """Keep other trainings out of ``out`` while the block runs, and yield the lock's path; folders are made.

    The lock of a run that died is free: it is the process's own, not that of the processes that read images for it,
    which may outlive it by seconds. Nothing stays where the block wrote nothing. Where a file system has no locks there
    is none. Raises ``OutputError`` where another run holds it.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    path = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = _lock(path)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({one_line(error)}); choose another --out") from error
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is held, so that nobody else's goes
        file.close()
        with suppress(OSError):  # from the first that is in use on
            for folder in made:
                folder.rmdir()


def _lock(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _acquire(file)
            # Whoever held it may have removed it between opening and locking.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.close()
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            file.close()
            raise OutputError(
                f"{path.parent} is in use, {holder} is training there: wait for it to end, stop it, or choose another "
                "--out"
            ) from error
        except BaseException:
            file.close()
            raise
        return file


def _acquire(file: IO[str]) -> None:
    """Take the lock or raise ``BlockingIOError``; nothing where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(error.errno, error.strerror) from error


def check_apart(out: Path, data: str | os.PathLike[str]) -> None:
    """Raise ``DataError`` where the images are what a run in ``out`` writes.

    ``out`` inside the images is seen when they are searched: see :func:`coda_deploy.data.open_source`.
    """
    given = Path(data).resolve()
    for name in (SAMPLES, FOLDER):
        if given.is_relative_to((out / name).resolve()):
            raise DataError(
                f"--data {data} is where a run in --out {out} writes its own {name}: choose another --out or --data"
            )
