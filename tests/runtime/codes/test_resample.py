from __future__ import annotations

import numpy as np
import pytest

from coda_runtime.codes.resample import area_matrix, upsample_matrix, upsample_taps

pytestmark = pytest.mark.numeric

SCALES = [(16, s) for s in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)] + [(32, s) for s in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)]


@pytest.mark.parametrize(("size", "side"), SCALES)
def test_it_is_torchs_bicubic(size: int, side: int) -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    expected = torch.nn.functional.interpolate(x, (size, size), mode="bicubic", align_corners=False).numpy()
    up = upsample_matrix(size, side)
    np.testing.assert_allclose(up @ x.numpy() @ up.T, expected, atol=2e-6)


def test_rows_sum_to_one_and_the_same_size_is_untouched() -> None:
    np.testing.assert_allclose(upsample_matrix(16, 5).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(upsample_matrix(7, 7), np.eye(7, dtype=np.float32))


def test_it_is_shared_and_read_only() -> None:
    assert upsample_matrix(8, 3) is upsample_matrix(8, 3)
    with pytest.raises(ValueError, match="read-only"):
        upsample_matrix(8, 3)[0, 0] = 1


@pytest.mark.parametrize(("size", "side"), [*SCALES, (7, 5), (5, 5), (1, 1), (3, 7)])
def test_area_is_torchs_adaptive_average_pooling(size: int, side: int) -> None:
    torch = pytest.importorskip("torch")
    resample = pytest.importorskip("coda_export.folding.resample")
    np.testing.assert_array_equal(area_matrix(size, side), resample.area_matrix(size, side).numpy())
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(side))
    expected = torch.nn.functional.adaptive_avg_pool2d(x, side).numpy()
    down = area_matrix(size, side)
    np.testing.assert_allclose(down @ x.numpy() @ down.T, expected, atol=2e-6)
    assert area_matrix(size, side) is down
    assert not down.flags.writeable


@pytest.mark.parametrize(("size", "side"), SCALES)
def test_four_taps_a_point_make_the_matrix(size: int, side: int) -> None:
    places, weights = upsample_taps(size, side)
    assert (places.dtype, places.shape, weights.dtype) == (np.int32, (4, size), np.float32)
    matrix = np.zeros((size, side))
    np.add.at(matrix, (np.arange(size), places), weights)
    np.testing.assert_allclose(matrix, upsample_matrix(size, side), atol=1e-7)
