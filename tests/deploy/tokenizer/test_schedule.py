from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.schedule import PUBLISHED, default_scales, scales_for
from coda_runtime.format.sizes import Scales, Shape, check_schedule, count_of, shapes_of
from coda_runtime.format.spec import MAX_LATENT, MAX_TOKENS


@pytest.mark.parametrize("side", PUBLISHED)
def test_published_sizes_have_the_published_schedule(side: int) -> None:
    assert default_scales((side, side)) == PUBLISHED[side]


@pytest.mark.parametrize(
    ("latent", "scales"),
    [
        ((1, 1), (1,)),
        ((8, 8), (1, 2, 3, 4, 5, 6, 7, 8)),
        ((64, 64), (1, 2, 4, 5, 9, 14, 22, 32, 45, 64)),
        (
            (24, 40),
            ((1, 1), (2, 3), (2, 4), (3, 5), (5, 8), (7, 11), (10, 16), (14, 23), (18, 30), (24, 40)),
        ),
    ],
)
def test_others_are_bent_from_it(latent: Shape, scales: Scales) -> None:
    assert default_scales(latent) == scales


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_any_latent_has_one_that_fits(latent: Shape) -> None:
    scales = default_scales(latent)
    check_schedule(scales, latent, MAX_LATENT, MAX_TOKENS)
    shapes = shapes_of(scales)
    assert shapes[0] == (1, 1)
    assert len(shapes) <= 10
    turned = default_scales(latent[::-1])
    assert shapes_of(turned) == tuple(shape[::-1] for shape in shapes)
    # No scale has so many more tokens than the one before that little of the picture would be coarse.
    assert all(count_of(b) <= 12 * count_of(a) for a, b in pairwise(shapes[1:]))


def test_a_size_that_the_factor_does_not_divide() -> None:
    with pytest.raises(ConfigError, match=r"image_size 190x320 is not a multiple of 8.*: choose 184x320 or 192x320"):
        scales_for((190, 320), 8)
    with pytest.raises(ConfigError, match="image_size is 0; expected a side in pixels up to 8192"):
        scales_for(0, 8)
    assert scales_for((192, 320), 8) == default_scales((24, 40))
