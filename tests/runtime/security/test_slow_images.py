"""Files that take far more time or memory than their pixels do: refused by their header, read faster, or ended."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_runtime import ImageError
from coda_runtime.images import budget, fit_bytes, open_rgb
from coda_runtime.images.limits import MAX_PIECES, MAX_SIDE

BYTES_PER_PIXEL = 12
"""What docs/embedding.md and docs/serving.md promise; of WebP, which a server does not take, the first says 16."""


def png(width: int, height: int, kind: int = 2, depth: int = 8, *, turn: int = 1, clear: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + bytes(range(1, 1 + {0: 1, 2: 3, 4: 2, 6: 4}[kind] * depth // 8)) * width
    packer, rows = zlib.compressobj(1), max(1, (1 << 20) // len(row))
    data = b"".join(packer.compress(row * min(rows, height - top)) for top in range(0, height, rows)) + packer.flush()
    exif = Image.Exif()
    exif[0x0112] = turn
    more = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + (chunk(b"tRNS", clear) if clear else b"")
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bmp(width: int, height: int, data: bytes, *, bits: int = 8, palette: bytes | None = None) -> bytes:
    colours = bytes(4 << bits) if palette is None else palette
    start = 14 + 40 + len(colours)
    sizes = (40, width, height, 1, bits, 1 if bits == 8 else 2, len(data), 0, 0, 0, 0)
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + struct.pack("<IiiHHIIiiII", *sizes)
    return head + colours + data


def tiff(pieces: int, *, tiled: bool = False, big: bool = False, order: str = "<") -> bytes:
    """Rows of one pixel, each a strip; or tiles, of which there is none."""
    wide, code = ("Q", 16) if big else ("I", 4)
    after = 8 + 20 * 8 + 8 if big else 2 + 12 * 8 + 4
    start = 16 if big else 8
    tags = {256: 1, 257: pieces, 258: 8, 262: 1, 277: 1, 278: 1}
    places = {324: pieces, 325: pieces} if tiled else {273: pieces, 279: pieces}
    entries = b""
    for tag, value in sorted((tags | places).items()):
        count, told = (value, start + after) if tag in places else (1, value)
        entries += struct.pack(f"{order}HH{wide}{wide}", tag, code, count, told)
    magic = {"<": b"II", ">": b"MM"}[order]
    head = magic + (struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8))
    count_of = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags) + len(places))
    return head + count_of + entries + struct.pack(order + wide, 0) + struct.pack(order + wide, 1) * pieces


def saved(kind: str, **how: Any) -> bytes:
    """A large picture that is stored upside down."""
    exif = Image.Exif()
    exif[0x0112] = 3
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000), (10, 90, 200)).save(out, kind, exif=exif, **how)
    return out.getvalue()


def seconds(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


class TestMemory:
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(lambda: png(3000, 3000, turn=3), id="upside down"),
            pytest.param(lambda: png(8, 1_000_000, turn=6), id="narrow"),
            pytest.param(lambda: png(3000, 3000, 6, turn=3), id="alpha"),
            pytest.param(lambda: png(3000, 3000, 0, 16, turn=3), id="16-bit grey"),
            pytest.param(lambda: png(3000, 3000, 2, 16, turn=3, clear=b"\1\2\3\4\5\6"), id="16-bit, one clear"),
            pytest.param(lambda: b"P6 3000 3000 254\n" + bytes(27_000_000), id="PPM"),
            pytest.param(lambda: bmp(3000, 3000, b"\1\1\0\0" * 3000), id="BMP in run lengths"),
            pytest.param(lambda: saved("WEBP", lossless=True, quality=0, method=0), id="WebP"),
            pytest.param(lambda: saved("JPEG", progressive=True), id="progressive JPEG"),
            pytest.param(lambda: saved("TIFF"), id="TIFF"),
        ],
    )
    def test_it_is_what_the_docs_promise(self, data: Callable[[], bytes], tmp_path: Path) -> None:
        (tmp_path / "it").write_bytes(data())
        code = """
import resource, sys
from coda_runtime.images import fit, require_pillow
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
fit(sys.argv[2], 64)
before = peak()
fit(sys.argv[1], 64)
print(peak() - before)
"""
        (tmp_path / "small.png").write_bytes(png(100, 100, 6, turn=3))
        command = [sys.executable, "-c", code, str(tmp_path / "it"), str(tmp_path / "small.png")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        with Image.open(tmp_path / "it") as image:
            pixels, most = image.width * image.height, 16 if image.format == "WEBP" else BYTES_PER_PIXEL
        assert int(done.stdout) < most * pixels + (24 << 20)

    def test_what_is_no_picture_is_refused_by_its_header(self) -> None:
        for width, height in ((1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)):
            with pytest.raises(ImageError, match=f"{width} x {height} pixels, and no side may have more than 1000000"):
                fit_bytes(png(width, height), 64, name="it")
        assert fit_bytes(png(1, MAX_SIDE), 64, name="it").shape == (64, 64, 3)


class TestTime:
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"P5 3000 3000 254\n" + bytes(9_000_000), id="PGM"),
            pytest.param(b"P6 1500 1500 4095\n" + bytes(13_500_000), id="PPM of 12 bits"),
            pytest.param(bmp(3000, 3000, b"\1\1\0\0" * 3000), id="BMP"),
            pytest.param(bmp(MAX_SIDE, 9, b"\1\1\0\0" * 9), id="wide BMP"),
            pytest.param(bmp(3000, 3000, b"\0\0" * 300_000), id="BMP of ends of lines"),
        ],
    )
    def test_what_pillow_takes_apart_in_python(self, data: bytes) -> None:
        def read() -> None:
            with suppress(ImageError):  # the last one holds too few pixels
                fit_bytes(data, 64, name="it")

        assert seconds(read) < 1.5

    @pytest.mark.parametrize("how", [{}, {"order": ">"}, {"big": True}, {"big": True, "order": ">"}, {"tiled": True}])
    def test_a_tiff_of_many_pieces(self, how: dict[str, Any]) -> None:
        told = f"has {MAX_PIECES + 1} strips or tiles, more than the limit of {MAX_PIECES}"
        with pytest.raises(ImageError, match=told):
            fit_bytes(tiff(MAX_PIECES + 1, **how), 64, name="it")
        if not how.get("tiled") and how != {"big": True, "order": ">"}:  # which Pillow does not read
            assert fit_bytes(tiff(1000, **how), 64, name="it").shape == (64, 64, 3)

    def test_any_other_is_ended(self) -> None:
        slow = b"P3 800 800 255\n" + b"1 " * 1_920_000
        told = r"'it' takes more than 0\.02 s to decode, the limit here: save it again"
        with pytest.raises(ImageError, match=told) as caught:
            fit_bytes(slow, 64, name="it", max_seconds=0.02)
        assert "PIL image" not in str(caught.value)

        def read() -> None:
            with suppress(ImageError):
                fit_bytes(slow, 64, name="it", max_seconds=0.02)

        assert seconds(read) < 1.5  # Pillow reads a megabyte at a time
        assert fit_bytes(slow, 64, name="it").shape == (64, 64, 3)

    @pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
    def test_every_format_looks_at_the_clock(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.BytesIO()
        Image.new("RGB", (300, 300)).save(out, kind)
        hours = iter(range(10_000))
        for clock in ("thread_time", "monotonic"):
            monkeypatch.setattr(budget.time, clock, lambda: next(hours) * 3600.0)
        with pytest.raises(ImageError, match=r"takes more than 20 s to decode.*PIL image"):
            open_rgb(io.BytesIO(out.getvalue()), name="it")

    def test_a_file_is_left_open(self) -> None:
        file = io.BytesIO(png(8, 8, 6))
        open_rgb(file, name="it")
        assert not file.closed


def _pillows(data: bytes) -> np.ndarray[Any, Any] | None:
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError):
        return None


def _ours(data: bytes) -> np.ndarray[Any, Any] | None:
    try:
        return np.asarray(open_rgb(io.BytesIO(data), name="it"))
    except ImageError:
        return None


@settings(max_examples=200)
@given(data=st.data())
def test_values_are_those_of_pillow(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    if data.draw(st.booleans()):
        kind, largest = data.draw(st.sampled_from([(5, 1), (5, 100), (6, 7), (6, 254), (6, 256), (6, 4095)]))
        size = width * height * (3 if kind == 6 else 1) * (1 if largest < 256 else 2)
        values = data.draw(st.binary(min_size=size - data.draw(st.integers(0, 1)), max_size=size))
        file = f"P{kind} {width} {height} {largest}\n".encode() + values
    else:
        bits = data.draw(st.sampled_from([4, 8]))
        pieces = st.one_of(
            st.sampled_from([b"\0\0", b"\0\1", b"\0\2\1\1", b"\0\3abc\0" if bits == 8 else b"\0\3ab"]),
            st.binary(min_size=2, max_size=2),
        )
        coded = b"".join(data.draw(st.lists(pieces, max_size=30)))
        palette = (bytes(range(256)) * 4)[: 4 << bits]
        file = bmp(width, data.draw(st.sampled_from([height, -height])), coded, bits=bits, palette=palette)
    expected, found = _pillows(file), _ours(file)
    assert (expected is None) == (found is None)
    if expected is not None and found is not None:
        np.testing.assert_array_equal(found, expected)
