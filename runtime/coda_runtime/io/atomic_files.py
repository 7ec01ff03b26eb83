"""Results written beside their place and renamed when all is done, so that a failure leaves what was there before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from ..errors import OutputError, one_line


@contextmanager
def staged_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    Missing parent folders are made. Raises OutputError.
    """
    target = _real(path)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; expected the name of a file to write")
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} is a device or a pipe, which a rename would replace; expected a file's name")
    beside = _beside(target)
    with _parents(target), _explained(target, beside):
        try:
            beside.touch(exist_ok=False)
            yield beside
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; it moves into place when the block ends without an error.

    If `path` is a folder already, its files of the same names are replaced and the others stay; with `replace` the
    whole folder is. Missing parent folders are made. Raises OutputError.
    """
    target = _real(path)
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; expected the name of a folder to write to")
    beside = _beside(target)
    with _parents(target), _explained(target, beside):
        try:
            beside.mkdir()
            yield beside
            if not target.exists():
                beside.rename(target)
            elif replace:
                _swap(beside, target)
            else:
                _merge(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _real(path: str | os.PathLike[str]) -> Path:
    # Through links: what a link names is to be written, and the link is to stay one.
    return Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)


def _swap(source: Path, target: Path) -> None:
    old = _beside(target)
    target.rename(old)
    try:
        source.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _merge(source: Path, target: Path) -> None:
    moves = [(file, target / file.relative_to(source)) for file in sorted(source.rglob("*")) if file.is_file()]
    # Looked at before the first move: a merge that stops half-way would leave a mixture.
    for _, destination in moves:
        blocked = [p for p in destination.parents if p.is_relative_to(target) and p.exists() and not p.is_dir()]
        if destination.is_dir() or blocked:
            raise OutputError(
                f"{destination} cannot be written: a folder or a file of that name is in the way; remove it"
            )
    for file, destination in moves:
        destination.parent.mkdir(parents=True, exist_ok=True)
        file.replace(destination)


def _beside(target: Path) -> Path:
    # In the same folder, so that renaming stays on one file system; not from tempfile, whose folders are private.
    return target.absolute().with_name(f".{target.absolute().name[:100]}.{os.getpid()}-{token_hex(4)}.part")


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders above `target`, and take them away again if the block fails."""
    missing = [parent for parent in target.absolute().parents if not parent.exists()]
    made: list[Path] = []
    try:
        with _explained(target):
            for parent in reversed(missing):
                parent.mkdir(exist_ok=True)
                made.append(parent)
        yield
    except BaseException:
        for parent in reversed(made):
            try:
                parent.rmdir()
            except OSError:  # somebody else uses it by now
                break
        raise


@contextmanager
def _explained(target: Path, beside: Path | None = None) -> Iterator[None]:
    """Turn OSErrors about the result into OutputErrors; errors about other files, which a block read, stay."""
    try:
        yield
    except OSError as error:
        ours = [str(path) for path in (beside, target) if path is not None]
        foreign = error.filename is not None and not any(str(error.filename).startswith(path) for path in ours)
        if beside is not None and foreign:
            raise
        raise OutputError(
            f"{target} cannot be written ({one_line(error)}); choose another place, or make room"
        ) from error
