from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_runtime import ImageError
from coda_runtime.images import Batches, batches, fit, fit_bytes
from tests.runtime import tiny


def _official(image: Image.Image, size: int) -> np.ndarray[Any, Any]:
    """The rule written down again: torchvision's Resize(size, LANCZOS) and CenterCrop(size) on a PIL image."""
    w, h = image.size
    if w <= h:
        new_w, new_h = size, int(size * h / w)
    else:
        new_w, new_h = int(size * w / h), size
    # The width first, as every Pillow up to 12 has it; 13 begins with the height of some portraits.
    image = image.resize((new_w, image.height), Image.Resampling.LANCZOS).resize(
        (new_w, new_h), Image.Resampling.LANCZOS
    )
    top, left = round((new_h - size) / 2.0), round((new_w - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@settings(max_examples=60)
@given(height=st.integers(1, 200), width=st.integers(1, 200), size=st.sampled_from([16, 31, 32, 64]))
def test_any_size_follows_the_official_rule(height: int, width: int, size: int) -> None:
    pixels = tiny.photos(1, height, width)[0]
    got = fit(pixels, size)
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    if max(height, width) <= 8 * min(height, width):
        np.testing.assert_array_equal(got, _official(Image.fromarray(pixels), size))


@pytest.mark.parametrize("shape", [(40, 1000), (1000, 40), (7, 501), (33, 5000)])
def test_long_strips_give_the_same_to_the_last_digit(shape: tuple[int, int]) -> None:
    pixels = tiny.photos(1, *shape)[0]
    difference = fit(pixels, 32).astype(int) - _official(Image.fromarray(pixels), 32)
    assert np.abs(difference).max() <= 1


def test_a_strip_that_would_fill_memory_is_fine() -> None:
    assert fit(np.zeros((1, 3_000_000, 3), np.uint8), 256).shape == (256, 256, 3)


def test_a_square_of_the_right_size_is_untouched_and_not_copied() -> None:
    pixels = tiny.photos(3)
    batch = Batches(pixels, 32).take(slice(0, 3))
    assert batch.shape == pixels.shape
    assert np.shares_memory(batch, pixels)
    assert fit(pixels[0], 32).base is pixels


def test_all_kinds_and_sizes_may_be_mixed(tmp_path: Path) -> None:
    pixels = tiny.photos(1, 50, 70)[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    items = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tiny.photos(1)[0]]
    batches = Batches(items, 32)
    assert len(batches) == 5
    parts = [batches.take(slice(start, start + 2)) for start in (0, 2, 4)]
    assert [len(part) for part in parts] == [2, 2, 1]
    whole = np.concatenate(parts)
    for i in range(1, 4):
        np.testing.assert_array_equal(whole[0], whole[i])


def test_many_are_read_at_once_and_stay_in_order(tmp_path: Path) -> None:
    paths = []
    for number, pixels in enumerate(tiny.photos(12, 50, 70)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.roll(pixels, number, 2)).save(paths[-1])
    one_by_one = np.stack([fit(path, 32) for path in paths])
    assert len(np.unique(one_by_one, axis=0)) == 12
    np.testing.assert_array_equal(Batches(paths, 32).take(slice(0, 12)), one_by_one)
    with Image.open(paths[3]) as opened:  # read by one thread, for it is one object
        np.testing.assert_array_equal(Batches([opened] * 9, 32).take(slice(0, 9)), one_by_one[[3] * 9])
    paths[4] = tmp_path / "first.png"
    paths[9] = tmp_path / "second.png"
    with pytest.raises(ImageError, match=r"first\.png"):
        Batches(paths, 32).take(slice(0, 12))


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    upright = Image.fromarray(tiny.photos(1, 40, 60)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(fit(tmp_path / "turned.png", 32), fit(upright, 32))


class TestModes:
    def test_grey_palette_and_bilevel(self) -> None:
        grey = Image.fromarray(tiny.photos(1)[0]).convert("L")
        for mode in ("L", "1", "P", "CMYK", "YCbCr"):
            converted = grey.convert(mode)
            np.testing.assert_array_equal(fit(converted, 32), np.asarray(converted.convert("RGB")))

    def test_transparent_is_white_and_opaque_is_itself(self) -> None:
        pixels = tiny.photos(1)[0]
        alpha = np.full((32, 32, 1), 255, np.uint8)
        alpha[:16] = 0
        got = fit(Image.fromarray(np.concatenate([pixels, alpha], axis=2)), 32)
        assert (got[:16] == 255).all()
        np.testing.assert_array_equal(got[16:], pixels[16:])

    def test_16_bit_grey_is_scaled(self, tmp_path: Path) -> None:
        values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "deep.png")
        np.testing.assert_array_equal(fit(tmp_path / "deep.png", 32)[..., 0], values >> 8)

    def test_float_grey_is_rejected(self) -> None:
        with pytest.raises(ImageError, match="32-bit grey values of unknown range"):
            fit(Image.fromarray(np.zeros((4, 4), np.float32)), 32)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((1, 32, 32, 3)), r"float64; expected uint8 .* multiply by 255"),
        (np.zeros((1, 32, 32, 3), np.float32), "multiply by 255"),
        (np.zeros((1, 32, 32, 3), np.int64), r"int64; expected uint8 .*astype"),
        (np.zeros((1, 32, 32, 3), bool), "bool; expected uint8"),
        (np.zeros((1, 32, 32, 3), object), "object; expected uint8 from 0 to 255$"),
        (np.full((1, 32, 32, 3), np.nan), "float64; expected uint8 from 0 to 255, found nan to nan"),
        (np.full((1, 32, 32, 3), -7), "found -7 to -7: bring them there"),
        (np.full((1, 32, 32, 3), 70_000), "found 70000 to 70000: bring them there"),
        (np.array([]), r"images is empty, float64 \[0\]"),
        (np.zeros((32, 32, 3), np.uint8), r"add the batch axis, images\[None\]"),
        (np.zeros((32, 32), np.uint8), "looks grey"),
        (np.zeros((5, 32, 32), np.uint8), "looks grey"),
        (np.zeros((1, 32, 32, 1), np.uint8), "looks grey"),
        (np.zeros((1, 32, 32, 4), np.uint8), r"alpha channel.*images\[\.\.\., :3\]"),
        (np.zeros((1, 3, 32, 32), np.uint8), "channels first.*transpose"),
        (np.zeros((1, 32, 32, 7), np.uint8), r"expected \[B,H,W,3\]"),
        (np.zeros((1, 0, 32, 3), np.uint8), "at least one pixel"),
        (np.zeros((1, 1, 1, 1, 3), np.uint8), r"expected \[B,H,W,3\]"),
        (np.zeros((), np.uint8), r"expected \[B,H,W,3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), "the batch is empty"),
        ([], "the batch is empty"),
        ((), "the batch is empty"),
    ],
)
def test_wrong_arrays_are_explained(array: Any, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        Batches(array, 32).take(slice(0, 4))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("photo.jpg", "single image"),
        (Path("photo.jpg"), "single image"),
        (Image.new("RGB", (2, 2)), "single image"),
        (None, "images is a NoneType"),
        (7, "images is a int"),
        ({"a": 1}, "images is a dict"),
        ([None], r"images\[0\] is a NoneType"),
        ([np.zeros((2, 2, 3))], r"images\[0\] is float64"),
        ([np.zeros((2, 2), np.uint8)], r"images\[0\] has shape \[2, 2\]"),
        ([np.zeros((0, 2, 3), np.uint8)], "at least one pixel"),
        (b"\xff\xd8", r"images is a bytes; .* read by coda_runtime\.images\.fit_bytes\(data, image_size"),
        ([b"\xff\xd8"], r"images\[0\] is a bytes; .*fit_bytes\(data, "),
        ([memoryview(b"")], r"fit_bytes\(data, "),
        ([io.BytesIO()], r"images\[0\] is a _io\.BytesIO; .*fit_bytes\(file\.read\(\), "),
    ],
)
def test_wrong_values_are_explained(value: Any, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        Batches(value, 32).take(slice(0, 4))


PICTURE = tiny.photos(1)
GREY = PICTURE[..., :1]


@pytest.mark.parametrize("high", [1023, 4095])
def test_the_upper_8_bits_of_a_picture_of_12_are_not_its_picture(high: int) -> None:
    images = (PICTURE.astype(float) * high / PICTURE.max()).astype(np.uint16)
    with pytest.raises(ImageError, match=f"found {images.min()} to {high}: bring them there before you cast") as raised:
        Batches(images, 32)
    assert ">> 8" not in str(raised.value)


@pytest.mark.parametrize(
    ("images", "expression", "pixels"),
    [
        (PICTURE.astype(np.uint16) * 257, "(images >> 8).astype(np.uint8)", PICTURE),
        (PICTURE.astype(np.uint16) * 256 + 255, "(images >> 8).astype(np.uint8)", PICTURE),
        (PICTURE.astype(np.uint16), "images.astype(np.uint8)", PICTURE),
        (PICTURE.astype(np.int64), "images.astype(np.uint8)", PICTURE),
        (PICTURE > 100, "images.astype(np.uint8) * 255", (PICTURE > 100) * np.uint8(255)),
        (PICTURE / 255, "(images * 255).round().astype(np.uint8)", PICTURE),
        ((PICTURE / 255).astype(np.float16), "(images * 255).round().astype(np.uint8)", PICTURE),
        (PICTURE.astype(np.float32), "images.round().astype(np.uint8)", PICTURE),
        (PICTURE / 127.5 - 1, "(images * 127.5 + 127.5).round().astype(np.uint8)", PICTURE),
        (PICTURE[0], "images[None]", PICTURE),
        (PICTURE.transpose(0, 3, 1, 2), "images.transpose(0, 2, 3, 1)", PICTURE),
        (PICTURE[0].transpose(2, 0, 1), "images.transpose(1, 2, 0)[None]", PICTURE),
        (GREY, "images.repeat(3, axis=3)", GREY.repeat(3, 3)),
        (GREY[..., 0], "images[..., None].repeat(3, axis=3)", GREY.repeat(3, 3)),
        (GREY[[0, 0, 0], ..., 0], "images[..., None].repeat(3, axis=3)", GREY[[0, 0, 0]].repeat(3, 3)),
        (GREY[0, ..., 0], "images[None, ..., None].repeat(3, axis=3)", GREY.repeat(3, 3)),
        (np.dstack([PICTURE[0], GREY[0] * 0 + 255])[None], "images[..., :3]", PICTURE),
        (np.dstack([PICTURE[0], GREY[0] * 0 + 255]), "images[None, ..., :3]", PICTURE),
        (
            np.dstack([PICTURE[0], GREY[0] * 0])[None],
            "[PIL.Image.fromarray(image) for image in images]",
            np.full_like(PICTURE, 255),
        ),
        (
            np.dstack([PICTURE[0], GREY[0] * 0]),
            "[PIL.Image.fromarray(image) for image in [images]]",
            np.full_like(PICTURE, 255),
        ),
    ],
)
def test_the_advice_gives_the_picture(images: Any, expression: str, pixels: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ImageError) as raised:
        Batches(images, 32)
    assert expression in str(raised.value)
    made = eval(expression, {"images": images, "np": np, "PIL": PIL})
    got = Batches(made, 32).take(slice(0, 4)).astype(int)
    assert np.abs(got - pixels).max() <= (1 if images.dtype == np.float16 else 0)


@pytest.mark.parametrize("kind", [str, object])
def test_an_array_of_paths_is_a_list_of_them(tmp_path: Path, kind: type) -> None:
    Image.fromarray(PICTURE[0]).save(tmp_path / "0.png")
    images = np.array([str(tmp_path / "0.png")], dtype=kind)
    with pytest.raises(ImageError, match=r"pass their paths as a list, images\.tolist\(\)"):
        Batches(images, 32)
    np.testing.assert_array_equal(Batches(images.tolist(), 32).take(slice(0, 1)), PICTURE)


def test_the_advice_for_bytes_gives_the_picture() -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURE[0]).save(file, "PNG")
    np.testing.assert_array_equal(fit_bytes(file.getvalue(), 32, name="it"), PICTURE[0])


def test_a_tensor_says_how_to_convert_it() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ImageError, match=r"torch\.Tensor; expected a numpy array.*cpu\(\)\.numpy\(\)"):
        Batches(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), 32)


@cache
def _whole(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(tiny.photos(1, 200, 200)[0]).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_cut_files_are_rejected_by_name(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(_whole(kind)[: int(len(_whole(kind)) * keep)])
    with pytest.raises(ImageError, match=r"cut\."):
        fit(path, 32)


def test_a_cut_file_that_pillow_opened_is_rejected_too(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(_whole("JPEG")[:2000])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match=r"images\[0\].* is it cut"):
        Batches([image], 32).take(slice(0, 1))


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: path.write_text("not an image at all\n"), "is not an image that Pillow can read"),
        (_noise, "is not an image that Pillow can read"),
        (lambda path: path.write_bytes(b""), "is not an image"),
        (lambda path: path.mkdir(), "cannot be read as an image"),
        (lambda path: None, "there is no image"),
    ],
)
def test_what_is_no_image_is_rejected_by_name(tmp_path: Path, make: Callable[[Path], Any], match: str) -> None:
    make(tmp_path / "thing.jpg")
    with pytest.raises(ImageError, match=match) as caught:
        fit(tmp_path / "thing.jpg", 32)
    assert "thing.jpg" in str(caught.value)


@settings(max_examples=80)
@given(at=st.integers(0, 3000), value=st.integers(0, 255))
def test_damaged_files_give_pixels_or_an_image_error(tmp_path_factory: Any, at: int, value: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    for kind in ("PNG", "JPEG"):
        data = bytearray(_whole(kind))
        data[at % len(data)] = value
        (folder / kind).write_bytes(data)
        try:
            shape, message = fit(folder / kind, 32).shape, ""
        except ImageError as error:
            shape, message = (), str(error)
        assert shape == (32, 32, 3) or kind in message


def test_a_decompression_bomb_is_rejected_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(_whole("PNG"))
    for limit in (25_000, 1_000):  # a warning and an error, in Pillow's terms
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=r"bomb\.png.*too many pixels"):
            fit(tmp_path / "bomb.png", 32)


def test_without_pillow_square_arrays_work_and_the_rest_gives_the_pip_line() -> None:
    code = """
import sys; sys.modules["PIL"] = None
import numpy as np, coda_runtime
from coda_runtime.images import Batches
assert Batches(np.zeros((2, 32, 32, 3), np.uint8), 32).take(slice(0, 4)).shape == (2, 32, 32, 3)
assert Batches([np.zeros((32, 32, 3), np.uint8)], 32).take(slice(0, 4)).shape == (1, 32, 32, 3)
for images in (np.zeros((1, 9, 9, 3), np.uint8), ["a.png"]):
    try:
        Batches(images, 32).take(slice(0, 4))
    except coda_runtime.MissingDependencyError as error:
        assert 'pip install "pillow>=' in str(error)
    else:
        raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nobody_looks_for_processors_where_one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's quota is read from several files."""
    asked = 0

    def count() -> int:
        nonlocal asked
        asked += 1
        return 2

    monkeypatch.setattr(batches, "usable_count", count)
    ready, large = np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    for images, expected in (([large], 0), ([ready] * 3, 0), ([ready, large], 1)):
        assert Batches(images, 4).take(slice(0, None)).shape == (len(images), 4, 4, 3)
        assert asked == expected
