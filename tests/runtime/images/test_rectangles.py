"""The rule for images, for heights and widths that differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coda_runtime.images import Batches, fit, resize
from coda_runtime.images.resizing import lanczos

SIDES = st.integers(1, 160)
TARGETS = st.tuples(st.integers(1, 48), st.integers(1, 48))


def _photo(height: int, width: int) -> np.ndarray[Any, Any]:
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _in_two_steps(image: Image.Image, height: int, width: int) -> np.ndarray[Any, Any]:
    """The rule written down again, with Pillow alone: scale until both sides are covered, and cut out the centre."""
    if width / image.width >= height / image.height:
        wide, high = width, int(width * image.height / image.width)
    else:
        wide, high = int(height * image.width / image.height), height
    # The width first, as every Pillow up to 12 has it.
    scaled = image.resize((wide, image.height), Image.Resampling.LANCZOS) if wide != image.width else image
    scaled = scaled.resize((wide, high), Image.Resampling.LANCZOS) if high != image.height else scaled
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return np.asarray(scaled.crop((left, top, left + width, top + height)))


@settings(max_examples=150)
@given(height=SIDES, width=SIDES, target=TARGETS)
def test_it_is_pillows_own_two_steps(height: int, width: int, target: tuple[int, int]) -> None:
    image = Image.fromarray(_photo(height, width))
    found = resize(image, target)
    assert found.shape == (*target, 3)
    expected = _in_two_steps(image, *target)
    long = max(image.width / target[1], image.height / target[0]) / min(
        image.width / target[1], image.height / target[0]
    )
    if long < 7.5:
        np.testing.assert_array_equal(found, expected)
    else:  # a strip is cropped while it is resized, which rounds once less
        assert np.abs(found.astype(int) - expected).max() <= 2


@given(height=SIDES, width=SIDES, side=st.integers(1, 48))
def test_a_pair_of_equal_sides_is_the_square(height: int, width: int, side: int) -> None:
    image = Image.fromarray(_photo(height, width))
    np.testing.assert_array_equal(resize(image, (side, side)), resize(image, side))


def test_what_has_the_shape_goes_through_untouched() -> None:
    pixels = _photo(24, 40)
    assert fit(pixels, (24, 40)) is pixels
    assert fit(pixels, (40, 24)).shape == (40, 24, 3)
    batch = np.stack([pixels, pixels])
    np.testing.assert_array_equal(Batches(batch, (24, 40)).take(slice(0, 2)), batch)
    assert Batches([pixels, Image.fromarray(_photo(50, 50))], (24, 40)).take(slice(0, 2)).shape == (2, 24, 40, 3)


def test_nothing_is_lost_along_the_tight_side() -> None:
    """Of a picture that is wider than the target, the whole height is kept; of a taller one the whole width."""
    ramp = np.broadcast_to(np.linspace(0, 255, 40).astype(np.uint8)[:, None, None], (40, 200, 3)).copy()
    assert [int(fit(ramp, (20, 40))[row, 0, 0]) for row in (0, -1)] == pytest.approx([3, 252], abs=4)
    turned = fit(ramp.transpose(1, 0, 2).copy(), (40, 20))
    assert [int(turned[0, column, 0]) for column in (0, -1)] == pytest.approx([3, 252], abs=4)


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    part=st.tuples(*[st.floats(0, 0.4)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_width_is_scaled_first(
    size: tuple[int, int], target: tuple[int, int], part: tuple[float, float, float, float], seed: int
) -> None:
    """By every Pillow: from 13 on it begins with the height of an image that loses many more rows than columns."""
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))
    left, top, right, bottom = (part[0] * size[0], part[1] * size[1], (1 - part[2]) * size[0], (1 - part[3]) * size[1])
    across = image.resize((target[0], size[1]), Image.Resampling.LANCZOS, box=(left, 0, right, size[1]))
    expected = across.resize(target, Image.Resampling.LANCZOS, box=(0, top, target[0], bottom))
    assert np.array_equal(lanczos(image, target, (left, top, right, bottom)), expected)
    whole = image.resize((target[0], size[1]), Image.Resampling.LANCZOS).resize(target, Image.Resampling.LANCZOS)
    assert np.array_equal(lanczos(image, target), whole)
