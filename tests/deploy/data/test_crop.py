from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coda_deploy.data import Crop
from coda_runtime import ImageError, InputError
from tests.deploy.data.sample_images import Pixels, photo


class Chosen:
    """In place of a generator: the draws of a test, in order."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)
        self.bounds: list[int] = []

    def integers(self, bound: int) -> int:
        self.bounds.append(bound)
        return int(self.draws.pop(0))

    def random(self) -> float:
        return self.draws.pop(0)


def _cut(crop: Crop, pixels: Pixels, *draws: float) -> tuple[Pixels, list[int]]:
    rng: Any = Chosen(*draws)
    out = crop(Image.fromarray(pixels), rng)
    assert rng.draws == []
    return out, rng.bounds


def _in_two_steps(pixels: Pixels, short: int, left: int, top: int, size: int) -> Pixels:
    """The rule written down again: scale the whole image, then cut."""
    height, width = (int(short * side / min(pixels.shape[:2])) for side in pixels.shape[:2])
    scaled = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(scaled)[top : top + size, left : left + size]


@given(height=st.integers(40, 90), width=st.integers(40, 90), size=st.integers(1, 48), data=st.data())
def test_it_is_a_cut_of_the_scaled_image(height: int, width: int, size: int, data: st.DataObject) -> None:
    pixels = photo(1, height, width)
    short = round(1.125 * size)
    wide, high = (int(short * side / min(height, width)) for side in (width, height))
    left, top = data.draw(st.integers(0, wide - size)), data.draw(st.integers(0, high - size))
    got, bounds = _cut(Crop(size), pixels, left, top)
    assert bounds == [wide - size + 1, high - size + 1]
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    expected = _in_two_steps(pixels, short, left, top, size)
    assert np.abs(got.astype(int) - expected).max() <= 2


@given(height=st.integers(1, 9), width=st.integers(1, 9), size=st.integers(1, 48), seed=st.integers(0, 9))
def test_the_smallest_images_can_be_cut(height: int, width: int, size: int, seed: int) -> None:
    image = Image.fromarray(photo(seed, height, width))
    got = Crop(size, zoom_max=2)(image, np.random.default_rng(seed))
    assert got.shape == (size, size, 3)
    np.testing.assert_array_equal(got, Crop(size, zoom_max=2)(image, np.random.default_rng(seed)))


@given(
    height=st.integers(20, 90), width=st.integers(20, 90), target=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    data=st.data(),
)  # fmt: skip
def test_a_rectangle_is_cut_of_the_covering_image(
    height: int, width: int, target: tuple[int, int], data: st.DataObject
) -> None:
    pixels = photo(1, height, width)
    if target[1] * height >= target[0] * width:  # where both sides are as tight, the width is rounded
        wide = round(1.125 * target[1])
        high = int(wide * height / width)
    else:
        high = round(1.125 * target[0])
        wide = int(high * width / height)
    left = data.draw(st.integers(0, wide - target[1]))
    top = data.draw(st.integers(0, high - target[0]))
    got, bounds = _cut(Crop(target), pixels, left, top)
    assert bounds == [wide - target[1] + 1, high - target[0] + 1]
    scaled = np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.LANCZOS))
    expected = scaled[top : top + target[0], left : left + target[1]]
    assert got.shape == expected.shape == (*target, 3)
    assert np.abs(got.astype(int) - expected).max() <= 2


def test_no_rectangle_is_made_larger_where_that_is_not_wanted() -> None:
    crop = Crop((20, 40), upscale=False)
    assert crop(Image.fromarray(photo(1, 20, 40)), np.random.default_rng(0)).shape == (20, 40, 3)
    with pytest.raises(ImageError, match="the image has 39 x 30 pixels, too few for 40 x 20 without enlarging it"):
        crop(Image.fromarray(photo(1, 30, 39)), np.random.default_rng(0))


def test_flip_mirrors_half_of_them() -> None:
    pixels = photo(1, 40, 60)
    plain, _ = _cut(Crop(32), pixels, 3, 2)
    left, _ = _cut(Crop(32, flip=True), pixels, 3, 2, 0.49)
    right, _ = _cut(Crop(32, flip=True), pixels, 3, 2, 0.5)
    np.testing.assert_array_equal(left, plain[:, ::-1])
    np.testing.assert_array_equal(right, plain)
    assert left.flags.c_contiguous


def test_no_zoom_and_the_right_size_leave_the_pixels_alone() -> None:
    pixels = photo(1, 32, 50)
    got, _ = _cut(Crop(32, zoom=1.0), pixels, 11, 0)
    np.testing.assert_array_equal(got, pixels[:, 11:43])


@pytest.mark.parametrize(
    ("draw", "short"),
    [(0.0, 40), (0.5, round(math.sqrt(40 * 160))), (1.0, 160)],
)
def test_zoom_max_draws_log_uniformly(draw: float, short: int) -> None:
    crop = Crop(32, zoom=1.25, zoom_max=5)
    pixels = photo(1, 200, 300)
    got, bounds = _cut(crop, pixels, draw, 8, 8)
    assert bounds == [int(short * 1.5) - 31, short - 31]
    assert np.abs(got.astype(int) - _in_two_steps(pixels, short, 8, 8, 32)).max() <= 1


@pytest.mark.parametrize(
    ("settings", "height", "draw", "short"),
    [
        ({"zoom_max": 5.0}, 60, 1.0, 60),  # not beyond the image's own
        ({"zoom_max": 5.0}, 20, 1.0, 40),  # but enlarged as far as zoom asks
        ({"zoom_max": 5.0, "upscale": False}, 35, 1.0, 35),
        ({"upscale": False}, 35, None, 35),
        ({"upscale": False}, 90, None, 40),
        ({}, 20, None, 40),
    ],
)
def test_how_far_images_are_enlarged(settings: dict[str, Any], height: int, draw: float | None, short: int) -> None:
    draws = (0, 0) if draw is None else (draw, 0, 0)
    _, bounds = _cut(Crop(32, zoom=1.25, **settings), photo(1, height, 90), *draws)
    assert bounds[1] == short - 31


def test_without_upscale_small_images_are_rejected() -> None:
    crop = Crop(32, upscale=False)
    rng = np.random.default_rng(0)
    with pytest.raises(ImageError, match="the image has 90 x 31 pixels, too few for 32 x 32 without enlarging it"):
        crop(Image.fromarray(photo(1, 31, 90)), rng)
    assert crop(Image.fromarray(photo(1, 32, 90)), rng).shape == (32, 32, 3)


def test_a_strip_that_would_fill_memory_is_fine() -> None:
    strip = Image.new("RGB", (1_000_000, 1))
    assert Crop(256)(strip, np.random.default_rng(0)).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"size": 0}, "the crop's size must be a whole number, 1 or more, found 0"),
        ({"size": 32.0}, "the crop's size"),
        ({"size": 32, "zoom": 0.9}, "zoom must be a finite number, 1 or more, found 0.9"),
        ({"size": 32, "zoom": math.nan}, "zoom must"),
        ({"size": 32, "zoom": math.inf}, "zoom must"),
        ({"size": 32, "zoom_max": 1.1}, r"zoom_max must be a finite number, at least zoom \(1.125\), found 1.1"),
        ({"size": 32, "zoom_max": math.nan}, "zoom_max must"),
    ],
)
def test_numbers_that_do_not_fit_are_rejected(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Crop(**settings)
