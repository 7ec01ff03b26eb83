"""Eight photographs, free to redistribute, that no recipe here trains on: for the demo and for measuring parity.

Authors and licences are in LICENSES.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

NAMES = ("astronaut", "cat", "coffee", "dandelion", "dogs", "mountains", "rocket", "sunset")


def paths() -> list[Path]:
    """Return the files, JPEG, shorter side 300 or 400 pixels."""
    return [Path(__file__).parent / f"{name}.jpg" for name in NAMES]
