"""The folder of a run: one training at a time, and never among the images that it learns from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from coda_deploy.errors import DataError
from coda_deploy.train.checkpoint import FOLDER
from coda_runtime.errors import OutputError, one_line
from coda_runtime.io.folder_lock import held_folder

LOCK = ".training.lock"
SAMPLES = "pictures"


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """Keep other trainings out of ``out`` while the block runs, and yield the lock's path; see ``held_folder``.

    Raises ``OutputError`` where another run holds it.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(held_folder(out, LOCK))
        except BlockingIOError as error:
            raise OutputError(
                f"{out} is in use, {error.strerror} is training there: wait for it to end, stop it, or choose another "
                "--out"
            ) from error
        except OSError as error:
            raise OutputError(f"{out} cannot be written ({one_line(error)}); choose another --out") from error
        yield path


def check_apart(out: Path, data: str | os.PathLike[str]) -> None:
    """Raise ``DataError`` where the images are what a run in ``out`` writes.

    ``out`` inside the images is seen when they are searched: see `coda_deploy.data.open_source`.
    """
    given = Path(data).resolve()
    for name in (SAMPLES, FOLDER):
        if given.is_relative_to((out / name).resolve()):
            raise DataError(
                f"--data {data} is where a run in --out {out} writes its own {name}: choose another --out or --data"
            )
