"""Files of this user alone: what others may have put there is not believed."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex


def is_ours(folder: Path) -> bool:
    """Return whether nobody else can have put files into a folder, nor have laid the link that leads to it.

    Raises OSError where there is none.
    """
    return is_safe(folder.stat()) and (not hasattr(os, "geteuid") or folder.lstat().st_uid in (0, os.geteuid()))


def is_safe(stat: os.stat_result) -> bool:
    """Return whether this user and root alone may write there."""
    return not hasattr(os, "geteuid") or (stat.st_uid in (0, os.geteuid()) and not stat.st_mode & 0o022)


def write_private(path: Path, data: bytes) -> None:
    """Put a file of this user alone in the place of what is there, all of it or nothing. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
