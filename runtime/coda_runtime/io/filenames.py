"""File names: such as can be written down, and those of results, safe on every system and never outside a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_UNSAFE = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MAX_LENGTH = 120  # bytes for one component; file systems allow 255


def utf8_name(name: str) -> str:
    """Return a name with U+FFFD for each byte that is not UTF-8, which no file format of ours could hold."""
    return os.fsencode(name).decode(errors="replace")


def png_names(names: Sequence[str]) -> list[str]:
    """Return a relative .png name for each image name, in order, with forward slashes, all distinct on any system."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    out = []
    for name in names:
        *folders, file = [
            _component(component) for component in name.split("/") if component not in ("", ".", "..")
        ] or ["image"]
        # A folder named like an image could stand in the way of one.
        folders = [f"{folder}_" if folder.casefold().endswith(".png") else folder for folder in folders]
        stem = "/".join([*folders, re.sub(r"(?<=.)\.[A-Za-z]{1,5}$", "", file)])
        unique, number = stem, numbers.get(stem.casefold(), 2)
        while unique.casefold() in taken:
            unique, number = f"{stem}-{number}", number + 1
        numbers[stem.casefold()] = number
        taken.add(unique.casefold())
        out.append(f"{unique}.png")
    return out


def _component(text: str) -> str:
    safe = _UNSAFE.sub("_", text).encode()[:_MAX_LENGTH].decode(errors="ignore").strip(" .") or "_"
    return f"_{safe}" if _RESERVED.fullmatch(safe) else safe
