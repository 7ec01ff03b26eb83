"""Files that take far longer to read than their pixels do: found by how they are built, before Pillow reads them.

A JPEG may go over its pixels in many scans, and each needs a few bytes only: a file of some megabytes would take
hours. It may also come with millions of metadata segments, which Pillow joins one by one. Of a PPM in decimal numbers
Pillow cuts out one comment at a time, and copies the rest for each. For each strip or tile of a TIFF it sets up a
decoder, and for each row it keeps a pointer, which is more than a pixel takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from .budget import BudgetedFile

MAX_SCANS = 100
"""Of a JPEG; encoders make about ten."""
MAX_SEGMENTS = 1000
"""Segments of at most 64 KB that a JPEG has before its pixels; a colour profile of 3 MB takes 46."""
MAX_COMMENTS = 1000
"""Of a PPM in decimal numbers."""
MAX_PIECES = 100_000
"""Strips or tiles of a TIFF: half a second. The largest image in tiles of 64 x 64 has 22,000."""
MAX_SIDE = 1_000_000
"""Of any image: what is longer is none."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what stands between pixels is stuffed with 00, or a restart
_NO_LENGTH = frozenset({0xC8, 0xD8, 0xD9, *range(0xF0, 0xFE)})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END, _SCAN = 0xD9, 0xDA
_BIG_TIFF = 43  # where TIFF has 42
_PIECES = frozenset({273, 324})  # tags: where strips and tiles lie
_MAX_ENTRIES = 4096
_CHUNK = 1 << 14


def excess(format: str, file: BudgetedFile) -> str | None:
    """Say what a file of a format, Pillow's name, has too much of, in words to follow its name; None if it is sound."""
    file.seek(0)
    if format == "JPEG":
        return _of_jpeg(file)
    if format == "TIFF":
        return _of_tiff(file)
    if format == "PPM" and file.read(2) in (b"P1", b"P2", b"P3"):
        comments = sum(chunk.count(b"#") for chunk in iter(lambda: file.read(1 << 20), b""))
        return f"has {comments} comments, more than the limit of {MAX_COMMENTS}" if comments > MAX_COMMENTS else None
    return None


def _of_jpeg(file: BudgetedFile) -> str | None:
    segments = scans = components = 0
    progressive = False
    for marker, head in _segments(file):
        if marker == _SCAN:
            scans += 1
            # All of the image in one scan: libjpeg takes no second one.
            if not progressive and head and head[0] >= components > 0:
                return None
            if scans > MAX_SCANS:
                return f"has more than {MAX_SCANS} scans"
        elif marker == _END and scans:
            return None
        elif marker in _FRAMES:
            progressive |= marker in _PROGRESSIVE
            components = head[5] if len(head) > 5 else 0
        segments += marker not in _NO_LENGTH
        if segments > MAX_SEGMENTS + scans * 8:  # tables may stand before each scan
            return f"has more than {MAX_SEGMENTS} metadata segments"
    return None


def _of_tiff(file: BudgetedFile) -> str | None:
    """Look at the entries of the first directory alone: each says how many values it has."""
    head = file.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = int.from_bytes(head[2:4], order) == _BIG_TIFF
    counts, entries, place = (8, 20, head[8:16]) if big else (2, 12, head[4:8])
    file.seek(int.from_bytes(place, order))
    many = int.from_bytes(file.read(counts), order)
    found = file.read(min(many, _MAX_ENTRIES) * entries)
    for at in range(0, len(found), entries):
        pieces = int.from_bytes(found[at + 4 : at + (12 if big else 8)], order)
        if int.from_bytes(found[at : at + 2], order) in _PIECES and pieces > MAX_PIECES:
            return f"has {pieces} strips or tiles, more than the limit of {MAX_PIECES}"
    return None


def _segments(file: BudgetedFile) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, the first bytes after its length) through a JPEG, over damage and the pixels between them."""
    at = 2
    while True:
        file.seek(at)
        data = file.read(_CHUNK)
        if len(data) < 2:
            return
        found = _MARKER.search(data)
        if found is None:
            at += len(data) - 1  # the last byte may begin a marker
            continue
        marker, at = data[found.end() - 1], at + found.end()
        if marker in _NO_LENGTH:
            yield marker, b""
            continue
        file.seek(at)
        head = file.read(8)
        at += max(2, int.from_bytes(head[:2], "big"))
        yield marker, head[2:]
