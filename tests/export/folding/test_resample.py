"""The constant matrices are PyTorch's own resampling operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from coda_export.folding.modules import apply_both_sides
from coda_export.folding.resample import Matrices, area_matrices, area_matrix, bicubic_matrices, bicubic_matrix
from coda_runtime.codes.resample import upsample_matrix
from coda_runtime.format.sizes import Shape

pytestmark = pytest.mark.numeric

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda pair: (min(pair), max(pair)))


def grid(shape: Shape, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def resampled(matrices: Matrices, x: torch.Tensor) -> torch.Tensor:
    return apply_both_sides(matrices, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@given(SIDES, SIDES)
@settings(max_examples=40)
def test_area_is_interpolate_area(down: tuple[int, int], across: tuple[int, int]) -> None:
    coarse, fine = zip(down, across, strict=True)
    x = grid(fine)
    expected = F.interpolate(x, size=coarse, mode="area")
    torch.testing.assert_close(resampled(area_matrices(fine, coarse), x), expected, atol=1e-5, rtol=1e-5)


@given(SIDES, SIDES)
@settings(max_examples=40)
def test_bicubic_is_interpolate_bicubic(down: tuple[int, int], across: tuple[int, int]) -> None:
    coarse, fine = zip(down, across, strict=True)
    y = grid(coarse)
    expected = F.interpolate(y, size=fine, mode="bicubic", align_corners=False)
    torch.testing.assert_close(resampled(bicubic_matrices(coarse, fine), y), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 8, 16, 32])
def test_nothing_is_done_where_the_sides_are_equal(size: int) -> None:
    assert torch.equal(area_matrix(size, size), torch.eye(size))
    assert torch.equal(bicubic_matrix(size, size), torch.eye(size))


@given(SIDES)
@settings(max_examples=40)
def test_constants_stay_constant(sides: tuple[int, int]) -> None:
    side, size = sides
    for matrix in (area_matrix(size, side), bicubic_matrix(side, size)):
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))


@pytest.mark.parametrize(("side", "size"), [(1, 16), (5, 16), (13, 16), (9, 32), (24, 32), (16, 16)])
def test_the_runtime_embeds_with_the_same_matrix(side: int, size: int) -> None:
    np.testing.assert_allclose(bicubic_matrix(side, size).numpy(), upsample_matrix(size, side), atol=1e-6)
