"""The files that SRC stands for: one file, a folder, or a pattern, on this machine or behind a URL."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...errors import CodaError, InputError, one_line
from ...io.image_files import Entry, Kind, has_image_suffix, is_hidden, omitted_as, walk
from ...io.omitted import Omitted
from ...io.remote import is_local, open_filesystem, redacted
from ..tars import expand_braces

_MAGIC = frozenset("*?[{")


@dataclass(frozen=True)
class Matches:
    """Files on one file system, sorted by name.

    `names` are relative to the folder or to the part of the pattern before its first `*`, with forward slashes.
    `omitted` are those that the source will not look at.
    """

    fs: Any
    root: str
    names: list[str]
    omitted: Omitted = field(default_factory=Omitted)

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
            root, entries = path, walk(path) if is_local(fs) else _entries(path, fs.find(path))
        elif fs.exists(path):
            root = path.rpartition("/")[0]
            entries = _entries(root, [path])
        elif _MAGIC & set(where):
            root, found = _glob(fs, where)
            entries = _entries(root, found)
        else:
            raise InputError(f"there is no file or folder {redacted(where)!r}; check the path")
        return _sorted(fs, root, entries, leave_out)
    except CodaError:
        raise
    except Exception as error:  # each file system's package has errors of its own
        raise InputError(
            f"{redacted(where)} cannot be searched ({one_line(error)}); check the path, the network and the permissions"
        ) from error


def _sorted(fs: Any, root: str, entries: Iterable[Entry], leave_out: str | None) -> Matches:
    names: set[str] = set()
    omitted = Omitted()
    for entry in entries:
        name, kind = entry
        if name in names or (leave_out is not None and f"{root}/{name}/".startswith(f"{leave_out}/")):
            continue
        # What is no file, and is called like one that is read, is an error of its own when its turn comes.
        called_like_one = has_image_suffix(name) or name.lower().endswith((".tar", ".parquet"))
        if kind in (Kind.FILE, Kind.BROKEN, Kind.SPECIAL) and called_like_one:
            names.add(name)
            continue
        if kind is not Kind.HIDDEN_FOLDER:
            names.add(name)
        if (why := omitted_as(entry, archives=False)) is not None:
            omitted.add(why, name)
    return Matches(fs, root, sorted(names), omitted)


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


def _entries(root: str, found: Iterable[str]) -> Iterator[Entry]:
    for file in found:
        name = file[len(root) :].lstrip("/")
        yield Entry(name, Kind.HIDDEN if is_hidden(name) else Kind.FILE)
