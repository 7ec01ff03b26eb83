"""Sixteen photographs, free to redistribute, that int8's scales are taken from: none is one that parity is measured on.

Authors and licences are in LICENSES.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

NAMES = (
    "bear",
    "bee",
    "brushes",
    "butterfly",
    "chameleon",
    "clock",
    "crocodile",
    "galaxies",
    "lamp",
    "macaw",
    "meadow",
    "moose",
    "panda",
    "stream",
    "treetop",
    "wine",
)


def paths() -> list[Path]:
    """Return the files, JPEG, shorter side 320 pixels."""
    return [Path(__file__).parent / f"{name}.jpg" for name in NAMES]
