"""runtime/js makes Pillow's pixels: byte for byte, for any size, box, orientation and alpha."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from coda_deploy import photographs
from coda_runtime.images import fit, open_rgb, resize
from coda_runtime.images.reading import _orientation
from coda_runtime.images.resizing import lanczos
from tests.runtime.js.bridge import Bridge, JsError, image

sides = st.integers(1, 90)
seeds = st.integers(0, 2**32 - 1)


def noise(*shape: int, seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    # Values at both ends too, where sums leave the range of a byte.
    found: NDArray[np.uint8] = np.clip(random.integers(-120, 376, shape), 0, 255).astype(np.uint8)
    return found


@given(height=sides, width=sides, new_height=sides, new_width=sides, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_lanczos_is_pillow_s(js: Bridge, height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    pixels = noise(height, width, 3, seed=seed)
    found = js("lanczos.js", "resize", pixels, width, height, new_width, new_height)
    expected = lanczos(Image.fromarray(pixels), (new_width, new_height))
    assert (found.reshape(new_height, new_width, 3) == np.asarray(expected)).all()


@given(data=st.data(), height=sides, width=sides, new_height=sides, new_width=sides, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_a_box_is_pillow_s(
    js: Bridge, data: st.DataObject, height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    pixels = noise(height, width, 3, seed=seed)
    share = st.floats(0, 0.9)
    left, top = data.draw(share) * width, data.draw(share) * height
    right = left + max(0.05, data.draw(st.floats(0.05, 1))) * (width - left)
    bottom = top + max(0.05, data.draw(st.floats(0.05, 1))) * (height - top)
    box = [left, top, min(right, width), min(bottom, height)]
    found = js("lanczos.js", "resize", pixels, width, height, new_width, new_height, box)
    expected = lanczos(Image.fromarray(pixels), (new_width, new_height), tuple(box))
    assert (found.reshape(new_height, new_width, 3) == np.asarray(expected)).all()


@given(height=sides, width=sides, target=st.tuples(st.integers(4, 48), st.integers(4, 48)), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_fit_is_the_official_rule(js: Bridge, height: int, width: int, target: tuple[int, int], seed: int) -> None:
    pixels = noise(height, width, 3, seed=seed)
    found = js("fit.js", "fit", image(pixels), *target)
    assert (found.reshape(*target, 3) == fit(pixels, target)).all()


@pytest.mark.parametrize("shape", [(20, 1900), (1901, 16), (9, 701), (2400, 31)], ids=str)
@pytest.mark.parametrize("target", [(16, 16), (24, 40)], ids=str)
def test_a_long_strip_is_cropped_while_it_is_resized(
    js: Bridge, shape: tuple[int, int], target: tuple[int, int]
) -> None:
    pixels = noise(*shape, 3, seed=7)
    found = js("fit.js", "fit", image(pixels), *target)
    assert (found.reshape(*target, 3) == fit(pixels, target)).all()


@pytest.mark.parametrize("size", [128, (192, 320)], ids=str)
@pytest.mark.parametrize("name", photographs.NAMES)
def test_photographs(js: Bridge, name: str, size: int | tuple[int, int]) -> None:
    path = next(path for path in photographs.paths() if path.stem == name)
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    height, width = (size, size) if isinstance(size, int) else size
    found = js("fit.js", "fit", image(pixels), height, width)
    assert (found.reshape(height, width, 3) == resize(Image.fromarray(pixels), size)).all()


def test_alpha_is_laid_over_white_as_pillow_does(js: Bridge) -> None:
    values, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([values, values[::-1], values.T, alphas], axis=2)
    found = js("pixels.js", "toRgb", image(rgba)).reshape(256, 256, 3)
    white = Image.new("RGBA", (256, 256), "white")
    expected = Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB")
    assert (found == np.asarray(expected)).all()
    grey = np.stack([values, alphas], axis=2)
    expected = Image.alpha_composite(white, Image.fromarray(grey, "LA").convert("RGBA")).convert("RGB")
    assert (js("pixels.js", "toRgb", image(grey)).reshape(256, 256, 3) == np.asarray(expected)).all()


def test_grey_is_repeated(js: Bridge) -> None:
    grey = noise(5, 7, seed=1)
    assert (js("pixels.js", "toRgb", image(grey)).reshape(5, 7, 3) == grey[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("byte_order", ["II", "MM"])
def test_a_jpeg_is_turned_upright(js: Bridge, orientation: int, byte_order: str) -> None:
    """EXIF of either byte order, and the turn that the Python side makes of it."""
    pixels = noise(24, 40, 3, seed=2)
    exif = Image.Exif()
    exif.endian = "<" if byte_order == "II" else ">"
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    assert js("pixels.js", "exifOrientation", file.getvalue()) == orientation
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        stored = np.asarray(opened)
    turned = js("pixels.js", "upright", image(stored), orientation)
    assert (turned["data"].reshape(turned["height"], turned["width"], 3) == whole(file)).all()


def whole(file: io.BytesIO) -> NDArray[np.uint8]:
    file.seek(0)
    return np.asarray(open_rgb(file, name="it"))


@given(cut=st.integers(0, 120), flip=st.integers(0, 119), value=st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_damaged_exif_is_upright(js: Bridge, cut: int, flip: int, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(noise(8, 8, 3, seed=3)).save(file, "JPEG", exif=exif)
    data = bytearray(file.getvalue()[:cut])
    if flip < len(data):
        data[flip] = value
    assert js("pixels.js", "exifOrientation", bytes(data)) in range(1, 9)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"data": b"12345", "width": 2, "height": 2}, "has 5 bytes for 2 x 2 pixels; expected 3 (RGB) or 4 (RGBA)"),
        ({"data": [1, 2, 3], "width": 1, "height": 1}, "expected {data, width, height}"),
        ({"width": 1, "height": 1}, "no data"),
        ({"data": b"123", "width": 0, "height": 1}, "expected {data, width, height}"),
    ],
    ids=["bytes", "list", "none", "empty"],
)
def test_what_is_no_image(js: Bridge, found: Any, expected: str) -> None:
    with pytest.raises(JsError, match="ImageError") as caught:
        js("fit.js", "fit", found, 8, 8)
    assert expected in str(caught.value)


def tiff(order: str, kind: int, *, magic: int = 42, count: int = 1, mark: bytes | None = None) -> bytes:
    """EXIF that says 6 as a value of a type."""
    value = struct.pack(f"{order}I", 6) if kind in (4, 9) else struct.pack(f"{order}HH", 6, 0)
    head = (mark or {"<": b"II", ">": b"MM"}[order]) + struct.pack(f"{order}HI", magic, 8)
    return head + struct.pack(f"{order}HHHI", 1, 0x0112, kind, count) + value + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_odd_exif_is_what_pillow_reads(js: Bridge, order: str) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(24, 40, 3, seed=2)).save(file, "JPEG")
    tags = {f"type {kind}": tiff(order, kind) for kind in (1, 2, 3, 4, 7, 8, 9)}
    tags |= {
        "no value": tiff(order, 3, count=0),
        "no TIFF": tiff(order, 3, mark=b"XX"),
        "other TIFF": tiff(order, 3, magic=41),
    }
    found = {}
    for name, tag in tags.items():
        body = b"Exif\0\0" + tag
        for fill in (b"", b"\xff\xff"):
            segment = fill + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
            data = file.getvalue()[:2] + segment + file.getvalue()[2:]
            with Image.open(io.BytesIO(data)) as opened:
                expected = _orientation(opened)
            found[name] = js("pixels.js", "exifOrientation", data)
            assert found[name] == (expected if expected in range(1, 9) else 1), (name, fill)
    assert {name for name, turn in found.items() if turn == 6} == {"type 3", "type 4", "type 8", "type 9"}


@pytest.mark.parametrize("orientation", [0, 9, 2.5, 5.5, "6", None], ids=str)
def test_what_is_no_orientation_turns_nothing(js: Bridge, orientation: Any) -> None:
    pixels = noise(3, 5, 3, seed=4)
    found = js("pixels.js", "upright", image(pixels), orientation)
    assert (found["width"], found["data"].tobytes()) == (5, pixels.tobytes())
