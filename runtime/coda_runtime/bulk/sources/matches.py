"""The files that SRC stands for: one file, a folder, or a pattern, on this machine or behind a URL."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ...errors import InputError
from ...io.remote import is_local, open_place, redacted
from ..tars import expand_braces

_MAGIC = frozenset("*?[{")


@dataclass(frozen=True)
class Matches:
    """Files on one file system, sorted by name.

    `names` are relative to the folder or to the part of the pattern before its first `*`, with forward slashes.
    """

    fs: Any
    root: str
    names: list[str]

    def path(self, name: str) -> str:
        """Where a file lies on `fs`."""
        return f"{self.root}/{name}"

    def ending(self, *suffixes: str) -> list[str]:
        """The names with one of these suffixes, hidden ones left out."""
        return [name for name in self.names if name.lower().endswith(suffixes) and not _hidden(name)]


def find(where: str, *, leave_out: str | None = None) -> Matches:
    """The files that a path, a URL or a pattern with `*`, `?`, `[...]`, `{000..012}`, `{a,b}` stands for.

    What lies under the path `leave_out`, on the same file system, is none of them. Raises InputError when there is
    nothing, MissingDependencyError for a URL whose package is missing.
    """
    fs, path = open_place(where)
    path = path.rstrip("/")
    try:
        if fs.isdir(path):
            root, found = path, list(_walk(path) if is_local(fs) else fs.find(path))
        elif fs.exists(path):
            root, found = path.rpartition("/")[0], [path]
        elif _MAGIC & set(where):
            root, found = _glob(fs, where)
        else:
            raise InputError(f"there is no file or folder {redacted(where)!r}; check the path")
    except OSError as error:
        raise InputError(f"{redacted(where)} cannot be searched ({error.strerror or error})") from error
    if leave_out is not None:
        found = [file for file in found if not file.startswith(f"{leave_out}/")]
    return Matches(fs, root, sorted({file[len(root) :].lstrip("/") for file in found}))


def _glob(fs: Any, where: str) -> tuple[str, list[str]]:
    found: list[str] = []
    fixed = []
    for piece in expand_braces(where):
        _, path = open_place(piece)
        matches = [path] if fs.exists(path) else _files(fs.glob(path, detail=True))
        if not matches:
            raise InputError(f"nothing matches {redacted(piece)!r}; check the path and the range")
        found += matches
        folders = path.split("/")[:-1]
        magic = next((i for i, folder in enumerate(folders) if _MAGIC & set(folder)), len(folders))
        fixed.append(folders[:magic])
    common = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*fixed, strict=False))
    return "/".join(level[0] for level in common), found


def _files(found: dict[str, dict[str, Any]]) -> list[str]:
    # Not by `isdir`, which over HTTP fetches each file.
    return [path for path, info in found.items() if info["type"] != "directory"]


def _walk(folder: str) -> Iterator[str]:
    """Every file under a folder of this machine, through links too, each folder once."""
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(here)  # noqa: PTH116 - millions of files: no Path for each
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (f"{here}/{name}" for name in files)


def _hidden(name: str) -> bool:
    return any(piece.startswith(".") for piece in PurePosixPath(name).parts)
