"""The files that SRC stands for: one file, a folder, or a pattern, on this machine or behind a URL."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from ...errors import InputError, one_line
from ...io.image_files import is_hidden, walk
from ...io.remote import is_local, open_filesystem, redacted
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
        """Return a file's path on `fs`."""
        return f"{self.root}/{name}"

    def ending(self, *suffixes: str) -> list[str]:
        """Return the names with one of these suffixes, without hidden ones."""
        return [name for name in self.names if name.lower().endswith(suffixes) and not is_hidden(name)]


def find(where: str, *, leave_out: str | None = None) -> Matches:
    """Find the files that a path, a URL or a pattern with `*`, `?`, `[...]`, `{000..012}`, `{a,b}` stands for.

    What lies under the path `leave_out`, on the same file system, is none of them. Raises InputError when there is
    nothing, MissingDependencyError for a URL whose package is missing.
    """
    fs, path = open_filesystem(where)
    path = path.rstrip("/")
    try:
        if fs.isdir(path):
            root, found = path, _local(path) if is_local(fs) else list(fs.find(path))
        elif fs.exists(path):
            root, found = path.rpartition("/")[0], [path]
        elif _MAGIC & set(where):
            root, found = _glob(fs, where)
        else:
            raise InputError(f"there is no file or folder {redacted(where)!r}; check the path")
    except OSError as error:
        raise InputError(f"{redacted(where)} cannot be searched ({one_line(error)})") from error
    if leave_out is not None:
        found = [file for file in found if not file.startswith(f"{leave_out}/")]
    return Matches(fs, root, sorted({file[len(root) :].lstrip("/") for file in found}))


def _glob(fs: Any, where: str) -> tuple[str, list[str]]:
    found: list[str] = []
    fixed = []
    for expanded in expand_braces(where):
        _, path = open_filesystem(expanded)
        matches = [path] if fs.exists(path) else _files(fs.glob(path, detail=True))
        if not matches:
            raise InputError(f"nothing matches {redacted(expanded)!r}; check the path and the range")
        found += matches
        folders = path.split("/")[:-1]
        magic = next((i for i, folder in enumerate(folders) if _MAGIC & set(folder)), len(folders))
        fixed.append(folders[:magic])
    common = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*fixed, strict=False))
    return "/".join(level[0] for level in common), found


def _files(found: dict[str, dict[str, Any]]) -> list[str]:
    # Not by `isdir`, which over HTTP fetches each file.
    return [path for path, info in found.items() if info["type"] != "directory"]


def _local(folder: str) -> list[str]:
    # Links that lead nowhere, pipes and devices too: a run records each of them as an image that cannot be read.
    return [f"{folder}/{entry.name}" for entry in walk(folder)]
