"""Heights and widths: how they are written, read and refused, and what a manifest says of a rectangle."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.errors import InputError, ManifestError
from coda_runtime.format.parts import IDS, IMAGE, LATENT
from coda_runtime.format.sizes import (
    Shape,
    Size,
    check_schedule,
    latent_shape,
    parse_scales,
    parse_size,
    plain,
    read_scales,
    scales_of,
    scales_text,
    shape_of,
    shapes_of,
    size_of,
    size_text,
)
from coda_runtime.format.spec import Spec
from coda_runtime.io.json_fields import Fields

SHAPES = st.tuples(st.integers(1, 1024), st.integers(1, 1024))
SQUARE: dict[str, Any] = {
    "variant": "test", "image_size": 32, "downsample": 8, "latent_channels": 4, "vocab_size": 16,
    "scales": [1, 2, 4], "num_tokens": 21,
}  # fmt: skip
WIDE: dict[str, Any] = {**SQUARE, "image_size": [24, 40], "scales": [[1, 1], [2, 3], [3, 5]], "num_tokens": 22}


@given(SHAPES)
def test_a_size_is_written_and_read(shape: Shape) -> None:
    size = size_of(shape)
    assert shape_of(size) == shape
    assert isinstance(size, int) == (shape[0] == shape[1])
    assert parse_size(size_text(size)) == size


@given(st.lists(SHAPES, min_size=1))
def test_a_schedule_is_written_and_read(shapes: list[Shape]) -> None:
    scales = scales_of(shapes)
    assert shapes_of(scales) == tuple(shapes)
    assert read_scales(json.loads(json.dumps(plain(scales)))) == scales
    assert parse_scales(scales_text(scales, ",")) == scales


@pytest.mark.parametrize("text", ["", "0", "12x0", "x", "1x2x3", "-4", "192*320", "1e3", "9999999"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a side in pixels such as 512, or height and width such as 192x320"):
        parse_size(text)
    with pytest.raises(InputError, match=r"the schedule is .* expected sides such as"):
        parse_scales(f"1,{text}")


@pytest.mark.parametrize(
    ("size", "near"),
    [(30, "choose 24 or 32"), (3, "choose 8$"), ((190, 320), "choose 184x320 or 192x320"), ((4, 16), "choose 8x16$")],
)
def test_a_size_that_the_factor_does_not_divide(size: Size, near: str) -> None:
    with pytest.raises(InputError, match=f"image_size {size_text(size)} is not a multiple of 8.*{near}"):
        latent_shape("image_size", size, 8)
    assert latent_shape("image_size", (192, 320), 8) == (24, 40)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((1, 2, 3), r"\[1, 2, 3\] must end at \[3, 5\], the latent's height and width"),
        (((1, 1), (5, 3)), r"must end at \[3, 5\]"),
        (((2, 2), (1, 3), (3, 5)), r"of which neither number falls, found \[\(2, 2\), \(1, 3\), \(3, 5\)\]"),
        (((1, 1), (1, 1), (3, 5)), "neither number falls"),
        ((1, (3, 5)), "must be whole numbers from 1 to 1024"),
        ("35", "must be whole numbers"),
        (((1, 2, 3),), "must be whole numbers"),
        ((), "must be whole numbers"),
    ],
)
def test_schedules_that_do_not_fit(scales: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_schedule(scales, (3, 5), 1024, 100)


def test_too_many_tokens() -> None:
    with pytest.raises(InputError, match=r"\[1, 2, 3, 5\] makes 39 tokens an image, and 38 are the most"):
        check_schedule((1, 2, 3, 5), (5, 5), 1024, 38)
    check_schedule((1, 2, 3, 5), (5, 5), 1024, 39)


def test_a_rectangle_in_a_manifest() -> None:
    spec = Spec.from_json(copy.deepcopy(WIDE))
    assert (spec.image_size, spec.height, spec.width, spec.image_shape) == ((24, 40), 24, 40, (24, 40))
    assert (spec.latent_size, spec.latent_shape) == ((3, 5), (3, 5))
    assert spec.scales == spec.scale_shapes == ((1, 1), (2, 3), (3, 5))
    assert spec.prefix_lengths == (1, 7, 22)
    assert (IMAGE.row(spec), LATENT.row(spec), IDS.row(spec)) == ((24, 40, 3), (4, 3, 5), (22,))
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.to_json() == {**WIDE, "resize": "shorter side, Lanczos", "crop": "center", "color_order": "RGB"}


def test_a_square_says_what_it_always_did() -> None:
    spec = Spec.from_json(copy.deepcopy(SQUARE))
    assert (spec.image_size, spec.latent_size, spec.scales) == (32, 4, (1, 2, 4))
    assert (spec.image_shape, spec.latent_shape, spec.scale_shapes) == ((32, 32), (4, 4), ((1, 1), (2, 2), (4, 4)))
    assert spec.to_json() == {**SQUARE, "resize": "shorter side, Lanczos", "crop": "center", "color_order": "RGB"}
    pairs = {**SQUARE, "image_size": [32, 32], "scales": [[1, 1], [2, 2], [4, 4]]}
    assert Spec.from_json(pairs) == spec, "two ways to say one thing are one spec"


def test_an_older_reader_refuses_a_rectangle() -> None:
    """It asks for a whole number, so that no format_version has to rise: docs/bundle.md."""
    with pytest.raises(ManifestError, match=r"image_size is \[24, 40\]; expected a positive whole number up to"):
        Fields(WIDE, "spec").positive("image_size", 8192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": [24, 32]}, "the last scale is 3x5, but image_size / downsample = 24x32 / 8 must equal it"),
        (
            {"image_size": [24]},
            r"image_size is \[24\]; expected .* up to 8192, or \[height, width\]",
        ),
        ({"image_size": [24, 8200]}, "image_size is"),
        ({"scales": [1, [2, 3], [3, 5]]}, r"scales is .*; expected an ascending list"),
        ({"scales": [[1, 1], [3, 2], [3, 5]], "num_tokens": 21}, r"num_tokens is 21, but the scales \[1x1, 3x2, 3x5\]"),
        ({"scales": [[3, 1], [2, 3], [3, 5]]}, "scales is"),
    ],
)
def test_rectangles_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        Spec.from_json(copy.deepcopy({**WIDE, **change}))
