"""Files of this user alone: what others may have put there is not believed."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import IO


def is_ours(folder: Path) -> bool:
    """Return whether nobody else can have put files into a folder, nor have laid the link that leads to it.

    Raises OSError where there is none.
    """
    return is_safe(folder.stat()) and (not hasattr(os, "geteuid") or folder.lstat().st_uid in (0, os.geteuid()))


def is_safe(stat: os.stat_result) -> bool:
    """Return whether this user and root alone may write there."""
    return not hasattr(os, "geteuid") or (stat.st_uid in (0, os.geteuid()) and not stat.st_mode & 0o022)


def is_private(file: IO[bytes], path: Path) -> bool:
    """Return whether nobody else can have written the open file at `path`, in a folder of coda-runtime's own cache.

    Raises OSError where a folder is gone.
    """
    return is_safe(os.fstat(file.fileno())) and is_ours(path.parent) and is_ours(path.parent.parent)


def make_private(folder: Path) -> bool:
    """Make a folder of this user alone, and return whether it is one: False for one that is another user's.

    One that was open to others, as some systems make folders, is closed, and JSON that lies in it is removed, since it
    would be believed from then on. Raises OSError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_ours(folder):
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        folder.chmod(0o700)
        for found in folder.rglob("*.json"):
            if found.is_dir() and not found.is_symlink():
                continue
            found.unlink()
    return True


def write_private(path: Path, data: bytes) -> None:
    """Put a file of this user alone in the place of what is there, all of it or nothing. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
