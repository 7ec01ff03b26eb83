from __future__ import annotations

import numpy as np
import pytest

from coda_deploy.demo.codes import Palette, usage


def test_usage_counts_codes_in_all_and_per_scale() -> None:
    scales = [np.array([[[3]], [[3]]], np.int32), np.array([[[0, 1], [2, 3]], [[3, 3], [3, 3]]], np.int32)]
    found = usage(scales, 8)
    assert found.tokens == 10
    assert found.counts.tolist() == [1, 1, 1, 7, 0, 0, 0, 0]
    assert found.distinct == 4
    assert found.utilization == 0.5
    assert found.distinct_per_scale == (1, 4)
    assert found.tokens_per_scale == (2, 8)


def test_perplexity_is_the_number_of_even_codes_and_one_for_a_constant() -> None:
    assert usage([np.arange(6, dtype=np.int32).reshape(1, 2, 3)], 9).perplexity == pytest.approx(6)
    assert usage([np.full((1, 2, 2), 5, np.int32)], 9).perplexity == pytest.approx(1)


def test_even_draws_touch_the_share_that_they_do() -> None:
    draws = np.random.default_rng(0).integers(0, 4096, (200, 5440))
    seen = np.mean([np.unique(row).size / 4096 for row in draws])
    assert usage([np.zeros((8, 1, 680), np.int32)], 4096).even_utilization == pytest.approx(seen, abs=2e-3)
    assert usage([np.zeros((1, 1, 1), np.int32)], 1).even_utilization == 1


def test_near_codes_have_near_colours() -> None:
    codes = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32) * np.arange(16, 0, -1) ** 2
    palette = Palette(codes)
    assert palette.codes.shape == (500, 3)
    assert palette.codes.dtype == np.uint8
    distance = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    colour = np.linalg.norm(palette.codes[:, None].astype(float) - palette.codes[None], axis=-1)
    apart = np.triu_indices(500, 1)
    assert np.corrcoef(distance[apart], colour[apart])[0, 1] > 0.6


@pytest.mark.parametrize("shape", [(4, 1), (5, 2), (3, 16)])
def test_small_and_constant_codebooks_have_colours(shape: tuple[int, int]) -> None:
    assert Palette(np.ones(shape, np.float32)).codes.shape == (shape[0], 3)
    assert Palette(np.arange(np.prod(shape), dtype=np.float32).reshape(shape)).codes.shape == (shape[0], 3)
