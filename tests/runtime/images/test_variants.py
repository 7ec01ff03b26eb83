"""Crops of an image: where they lie, that they are the official rule's pixels, and always the same for a key."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coda_runtime import InputError
from coda_runtime.format.sizes import Shape
from coda_runtime.images import fit
from coda_runtime.images.resizing import lanczos
from coda_runtime.images.variants import Variants

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
CHOICES = st.one_of(
    st.builds(Variants, st.just("center"), st.booleans(), st.sampled_from([(), (1.5,), (1.0, 1.3)])),
    st.builds(Variants, st.just("ten"), st.just(False), st.sampled_from([(), (1.05, 1.4)])),
    st.builds(Variants, st.sampled_from(["random:1", "random:3"]), st.booleans(), st.sampled_from([(), (2.0,)])),
)


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    smooth = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)


@given(image=SHAPES, shape=SHAPES, variants=CHOICES)
def test_every_crop_is_what_its_box_holds(image: Shape, shape: Shape, variants: Variants) -> None:
    """Of any size, rectangles too; mirror images come after what they mirror, with the same box."""
    height, width = image
    source = photo(height, width)
    crops = variants.cut(source, shape, "a")
    assert len(crops) == variants.count
    for crop in crops:
        assert (crop.pixels.shape, crop.pixels.dtype) == ((*shape, 3), np.uint8)
        left, top, right, bottom = crop.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        again = np.asarray(lanczos(source, shape[::-1], crop.box))
        # A corner of a resized image, and the resized corner, round in another order; another place is off by 20.
        assert np.abs((again[:, ::-1] if crop.flip else again).astype(int) - crop.pixels).mean() <= 4
    plain = {crop.box: crop.pixels for crop in crops if not crop.flip}
    for crop in crops:
        if crop.flip:
            assert crop.box in plain
    assert sum(crop.flip for crop in crops) in (0, len(crops) // 2)


@given(image=SHAPES, shape=SHAPES)
def test_the_first_one_is_the_image_without_variants(image: Shape, shape: Shape) -> None:
    source = photo(*image)
    plain, mirrored = Variants(flip=True).cut(source, shape, "a")
    np.testing.assert_array_equal(plain.pixels, fit(source, shape))
    np.testing.assert_array_equal(mirrored.pixels, plain.pixels[:, ::-1])


def test_ten() -> None:
    """At 1.25 the middle 40 x 40 of the image in this size, of which 32 x 32 are cut; the order is torchvision's."""
    source = photo(50, 80)
    middle = fit(source, 40)
    crops = Variants("ten", zoom=(1.25,)).cut(source, 32, "a")
    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    for crop, (top, left) in zip(crops[:5], places, strict=True):
        np.testing.assert_array_equal(crop.pixels, middle[top : top + 32, left : left + 32])
    for crop, mirror in zip(crops[:5], crops[5:], strict=True):
        np.testing.assert_array_equal(mirror.pixels, crop.pixels[:, ::-1])
    # The image is 64 x 40 there: 1.25 of its own pixels for each.
    assert crops[0].box == (15.0, 0.0, 55.0, 40.0)
    assert crops[4].box == (20.0, 5.0, 60.0, 45.0)
    several = Variants("ten", zoom=(1.25, 1.5)).cut(source, 32, "a")
    assert [crop.box for crop in several[:10]] == [crop.box for crop in crops]
    assert len({crop.box for crop in several}) == 10


def test_random_crops_are_drawn_by_key_and_seed() -> None:
    source = photo(300, 200)

    def boxes(variants: Variants, key: str) -> list[tuple[float, ...]]:
        return [crop.box for crop in variants.cut(source, (16, 24), key)]

    four = boxes(Variants("random:4"), "a.png")
    assert four == boxes(Variants("random:9"), "a.png")[:4]
    assert len({*four, *boxes(Variants("random:4"), "b.png"), *boxes(Variants("random:4", seed=1), "a.png")}) == 12
    # What stands in folders of tokens must not move, since a run goes on with it: drawn by SHA-256 of "0/0/a.png".
    assert four[0] == pytest.approx((400 / 29, 1200 / 43, 5200 / 29, 6000 / 43))
    widths = [right - left for left, _, right, _ in boxes(Variants("random:400", zoom=(1.0, 2.0)), "a")]
    assert min(widths) < 105
    assert max(widths) > 190


def test_counts_and_json() -> None:
    for variants, count in [
        (Variants(), 1),
        (Variants(flip=True), 2),
        (Variants(flip=True, zoom=(1.0, 1.1, 1.2)), 6),
        (Variants("ten", zoom=(1.05, 1.1)), 20),
        (Variants("random:4"), 4),
        (Variants("random:4", flip=True, zoom=(1.0, 1.5), seed=3), 8),
    ]:
        assert variants.count == count
        assert Variants.from_json(json.loads(json.dumps(variants.to_json()))).count == count
        assert Variants.from_json(variants.to_json()).to_json() == variants.to_json()


@pytest.mark.parametrize(
    ("crops", "flip", "zoom", "told"),
    [
        ("five", False, (), r'crops is \'five\'; expected "center", "ten", or "random:N" with N from 1'),
        ("random:0", False, (), "expected"),
        ("ten", True, (), "has the mirror images already"),
        ("ten", False, (1.0, 1.1), "five times the same"),
        ("center", False, (0.5,), r"zoom is 0\.5; expected different numbers from 1 to 8"),
        ("center", False, (float("nan"),), "zoom is nan"),
        ("center", False, (1.5, 1.5), r"zoom is 1\.5,1\.5"),
    ],
)
def test_what_does_not_fit(crops: str, flip: bool, zoom: tuple[float, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Variants(crops, flip, zoom)


def test_memory_is_bounded() -> None:
    Variants("random:600").check(256)
    with pytest.raises(InputError, match="700 variants of each image take 131 MiB, and 128 are the most"):
        Variants("random:700").check(256)
