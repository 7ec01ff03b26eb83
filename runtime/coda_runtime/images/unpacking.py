"""Values of two rare formats, which Pillow takes apart one by one in Python: the same bytes, many times as fast."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .budget import BudgetedFile

_TOKENS_BETWEEN_CHECKS = 4096


def unpack(image: Any, file: BudgetedFile) -> None:
    """Put the plain values in place of a file's own, where its format is one of these; nothing of it is read before.

    These are PPM whose largest value is none of 255 and 65535, and BMP in run lengths.
    """
    if len(image.tile) != 1:
        return
    codec, extents, offset, args = image.tile[0]
    if codec == "ppm" and image.mode in ("L", "RGB"):
        image.fp, raw = _Scaled(file, offset, args[-1]), (image.mode, 0, 1)
    elif codec == "bmp_rle":
        file.seek(offset)
        data = _run_lengths(file, offset, image.width, image.width * image.height, four_bits=args[1])
        image.fp, raw = io.BytesIO(data), ("P" if image.mode == "P" else "L", 0, args[-1])
    else:
        return
    tile = image.tile[0]
    named = hasattr(tile, "_replace")  # a plain tuple in older versions of Pillow
    image.tile = [tile._replace(codec_name="raw", offset=0, args=raw) if named else ("raw", extents, 0, raw)]


class _Scaled:
    """The values of a PPM from 0 to `largest`, as bytes from 0 to 255."""

    def __init__(self, file: BudgetedFile, start: int, largest: int) -> None:
        self._file, self._start = file, start
        self._width = 1 if largest < 256 else 2
        table = np.full(256**self._width, 255, np.uint8)
        table[: largest + 1] = np.rint(np.arange(largest + 1) / largest * 255)
        self._table, self._bytes = table, table.tobytes()

    def seek(self, offset: int) -> None:
        self._file.seek(self._start + offset * self._width)

    def read(self, size: int) -> bytes:
        data = self._file.read(size * self._width)
        if self._width == 1:
            return data.translate(self._bytes)
        return bytes(self._table[np.frombuffer(data[: len(data) // 2 * 2], ">u2")].data)


def _run_lengths(file: BudgetedFile, start: int, width: int, total: int, *, four_bits: bool) -> bytes:
    """Return `total` bytes, one a pixel, or fewer where the data ends."""
    coded = file.read()
    out = bytearray()
    at = column = tokens = 0
    while len(out) < total and at + 1 < len(coded):
        tokens += 1
        if tokens % _TOKENS_BETWEEN_CHECKS == 0:
            file.check()
        count, value = coded[at], coded[at + 1]
        at += 2
        if count:
            count = min(count, max(0, width - column))
            out += _halves(bytes([value]) * (-(-count // 2)))[:count] if four_bits else bytes([value]) * count
            column += count
        elif value == 0:  # the end of a line
            out += bytes(-len(out) % width)
            column = 0
        elif value == 1:  # of the image
            break
        elif value == 2:
            if at + 1 >= len(coded):
                break
            right, up = coded[at], coded[at + 1]
            at += 2
            out += bytes(min(total - len(out), right + up * width))
            column = len(out) % width
        else:
            count = min(total - len(out), value)
            length = -(-count // 2) if four_bits else count
            piece = coded[at : at + length]
            out += _halves(piece)[:count] if four_bits else piece
            at += length
            if len(piece) < length:
                break
            column += value
            at += (start + at) % 2  # each begins at an even place
    return bytes(out)


def _halves(data: bytes) -> bytes:
    """Return the upper and the lower four bits of each byte."""
    values = np.frombuffer(data, np.uint8)
    return np.stack([values >> 4, values & 15], axis=1).tobytes()
