"""The user's folders, also where there are none: a container may run under a number that no account has."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import OutputError


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with "~" replaced; as it is where that names no home, which Path.expanduser fails on."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME, by default ~/.cache; it need not exist. Raises OutputError where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    home = expand_home("~")
    if not home.is_absolute():
        raise OutputError(
            "there is no folder for a cache: HOME and XDG_CACHE_HOME are not set, and this user has no home directory; "
            "set XDG_CACHE_HOME to a folder that may be written"
        )
    return home / ".cache"


def own_cache() -> Path:
    """Return coda-runtime's folder in `cache_folder`; it need not exist. Raises OutputError where there is no home."""
    return cache_folder() / "coda-runtime"
