"""What halves lose stays within the bound, and the table is shared without a gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.backends.ptx.screening import GROUPS, STEP, column_order, half_tables, share


def test_columns_are_all_codes_and_groups_follow_each_other() -> None:
    order = column_order(3 * STEP)
    np.testing.assert_array_equal(np.sort(order), np.arange(3 * STEP))
    # What a thread holds of a chunk: every eighth column.
    for group in range(GROUPS):
        codes = order[:STEP][group::GROUPS]
        np.testing.assert_array_equal(codes, STEP // GROUPS * group + np.arange(STEP // GROUPS))


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1e-20, 1e-6, 1.0, 300.0, 6e4]),
    weight=st.sampled_from([1e-12, 1.0, 1e12]),
    uneven=st.booleans(),
)
def test_no_score_is_off_by_more_than_the_bound(seed: int, size: float, weight: float, uneven: bool) -> None:
    """As docs/folding.md has it; sums in float64, so that what is left is the halves' loss."""
    rng = np.random.default_rng(seed)
    table = (weight * rng.standard_normal((16, STEP))).astype(np.float32)
    table *= np.float32(10.0) ** rng.integers(-6, 1, STEP).astype(np.float32) if uneven else np.float32(1)
    bias = (weight * rng.standard_normal(STEP)).astype(np.float32)
    bias[-3:] = -np.inf
    made = half_tables(table, bias, None, 0)
    rows = np.clip(size * rng.standard_normal((20, 16)), -6e4, 6e4).astype(np.float32)
    half = rows.astype(np.float16)
    order = column_order(STEP)
    rough = half.astype(np.float64) @ made["halves"].astype(np.float64) + made["biases"]
    real = np.isfinite(bias)[order]
    scale = float(made["biases"][0]) / float(bias[order[0]])
    assert math.log2(scale).is_integer()
    exact = (rows.astype(np.float64) @ table.astype(np.float64) + bias)[:, order] * scale
    kept, lost = (np.linalg.norm(part.astype(np.float64), axis=1) for part in (half, rows - half.astype(np.float32)))
    length, rounded, _, largest, slope = made["bounds"].astype(np.float64)
    margin = lost * length + kept * rounded
    off = np.abs(rough[:, real] - exact[:, real])
    assert (off <= margin[:, None] + 1e-12 * ((kept + lost) * length + largest)[:, None]).all()
    assert slope < 1e-30
    assert np.abs(made["halves"].astype(np.float32)).max() <= 1024


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_tables_without_a_scale(value: float) -> None:
    made = half_tables(np.full((16, STEP), value, np.float32), np.zeros(STEP, np.float32), None, 0)
    assert (made["biases"] == 0).all()


def test_a_slope_is_scaled_and_ordered_as_the_bias_is() -> None:
    rng = np.random.default_rng(0)
    table, bias = rng.standard_normal((16, STEP), np.float32), rng.standard_normal(STEP, np.float32)
    plain, made = half_tables(table, bias, None, 0), half_tables(table, bias, bias, 20)
    np.testing.assert_array_equal(made["slopes"], made["biases"])
    assert made["bounds"][2] > plain["bounds"][2]
    assert made["bounds"][4] >= np.abs(made["slopes"]).max()


@given(
    blocks=st.integers(1, 4000),
    chunks=st.integers(1, 600),
    places=st.integers(1, 3000),
    limit=st.sampled_from([1, 16, 64]),
)
def test_every_chunk_belongs_to_one_split(blocks: int, chunks: int, places: int, limit: int) -> None:
    splits, each = share(blocks, chunks, places, limit)
    assert 1 <= splits <= limit
    assert (splits - 1) * each < chunks <= splits * each


# Blocks of the screening that ships on a multiprocessor: tests/export/kernels/test_budget.py.
@pytest.mark.parametrize(
    ("processors", "each"),
    [(132, 8), (108, 6), (58, 5), (128, 5), (170, 5)],
    ids=["H100", "A100", "L4", "4090", "5090"],
)
@pytest.mark.parametrize(
    ("tokens", "codes", "least"), [(32 * 1024, 65536, 0.92), (32 * 256, 16384, 0.75)], ids=["FLUX", "MAR"]
)
def test_the_last_wave_is_nearly_full(processors: int, each: int, tokens: int, codes: int, least: float) -> None:
    """MAR's 64 chunks cannot be cut for every GPU."""
    blocks, chunks, places = tokens // 64, codes // STEP, each * processors
    splits, long = share(blocks, chunks, places, 64)
    # Of the chunks that all places could do until the last block ends, those that are done.
    done = blocks * chunks / (math.ceil(blocks * splits / places) * places * long)
    assert done >= least, (splits, long, done)
