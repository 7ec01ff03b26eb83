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


# Multiprocessors, and blocks on each of the screening that ships: tests/export/kernels/test_budget.py.
GPUS = {"H100": (132, 8), "A100": (108, 6), "L4": (58, 5), "4090": (128, 5), "5090": (170, 5)}
# Tokens of the largest scale of a batch of 32, and codes.
LARGEST = {"FLUX": (32 * 1024, 65536), "MAR": (32 * 256, 16384)}
# MAR's 128 blocks of 64 chunks come out even with neither: docs/gpu.md.
UNEVEN = {("L4", "MAR"): 0.88, ("5090", "MAR"): 0.87}


@pytest.mark.parametrize("shape", LARGEST)
@pytest.mark.parametrize("gpu", GPUS)
def test_waves_are_full(gpu: str, shape: str) -> None:
    (processors, each), (tokens, codes) = GPUS[gpu], LARGEST[shape]
    blocks, chunks, places = tokens // 64, codes // STEP, each * processors
    splits, long = share(blocks, chunks, places, 64)
    waves = math.ceil(blocks * splits / places)
    # Of all places the share that blocks take; and of the chunks that they could do, until the last ends, those done.
    taken, done = blocks * splits / (waves * places), blocks * chunks / (waves * places * long)
    assert min(taken, done) >= UNEVEN.get((gpu, shape), 0.95), (splits, long, taken, done)


@pytest.mark.parametrize("gpu", [gpu for gpu, _ in UNEVEN])
def test_fuller_waves_of_mar_would_end_later(gpu: str) -> None:
    """Every split that fills its waves is of so few chunks that what a block costs besides outweighs it."""
    processors, each = GPUS[gpu]
    blocks, chunks, places = 128, 64, each * processors

    def end(splits: int) -> float:
        """In chunks: some three of a block are no chunk's."""
        return math.ceil(blocks * splits / places) * (math.ceil(chunks / splits) + 3)

    chosen, _ = share(blocks, chunks, places, 64)
    full = [it for it in range(1, 65) if blocks * it / (math.ceil(blocks * it / places) * places) >= 0.95]
    assert full
    assert min(end(splits) for splits in full) > 1.1 * end(chosen)
