"""What was found out about files, remembered between runs in the user's cache: it only ever saves time."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import OutputError
from . import private_files
from .regular_files import open_regular
from .user_folders import own_cache

_MAX_ENTRIES, _MAX_BYTES = 2048, 1 << 20
"""What some hundred bundles need: the whole file is read for each."""


def recall(key: str) -> list[object] | None:
    """Return what was remembered under a key, None if nothing was."""
    entry = _read().get(key)
    return entry if isinstance(entry, list) else None


def remember(key: str, value: list[object]) -> None:
    """Keep a value, of what JSON knows, under a key. Not being able to is no failure: the next run looks again."""
    with contextlib.suppress(OSError, OutputError):
        path = cache_path()
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        if not private_files.make_private(path.parent):
            return
        entries = _read()
        entries.pop(key, None)
        entries[key] = value  # at the end: the oldest come first
        private_files.write_private(path, _dump(entries))


def cache_path() -> Path:
    """Return where it is kept. Raises OutputError without a home directory."""
    return own_cache() / "checksums.json"


class _Parsed(NamedTuple):
    """The cache as it was last read, and of which file: each file of a bundle asks for its own line of it."""

    state: tuple[object, ...]
    entries: dict[str, list[object]]


_last = _Parsed((), {})


def _read() -> dict[str, list[object]]:
    """Read the whole cache; a missing, broken, large or foreign one counts as empty."""
    global _last
    try:
        path = cache_path()
        if not private_files.is_ours(path.parent):
            return {}
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            if not private_files.is_safe(stat):
                return {}
            state = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            if _last.state == state:
                return dict(_last.entries)
            found = file.read(_MAX_BYTES + 1)
        data = json.loads(found) if len(found) <= _MAX_BYTES else {}
    except (OSError, ValueError, RecursionError, OutputError):  # OutputError: there is no home directory
        return {}
    entries = data if isinstance(data, dict) else {}
    _last = _Parsed(state, entries)
    return dict(entries)


def _dump(entries: dict[str, list[object]]) -> bytes:
    """Return the newest entries as they are written: no more than are read back."""
    newest = list(entries.items())[-_MAX_ENTRIES:]
    while len(data := json.dumps(dict(newest)).encode()) > _MAX_BYTES:
        newest = newest[(len(newest) + 1) // 2 :]
    return data
