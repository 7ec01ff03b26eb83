"""A batch of any size through engines of limited batches, also where memory runs out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import DeviceMemoryError
from coda_runtime.chunking import fill, run_in_chunks
from coda_runtime.format.profiles import Batch, BatchSizes


class Engine:
    """Doubles its items, in batches from `min_batch`; has memory for `memory` of them."""

    def __init__(self, items: npt.NDArray[np.int64], min_batch: int, memory: int) -> None:
        self.items, self.min_batch, self.memory = items, min_batch, memory
        self.sizes: list[int] = []

    def __call__(self, where: slice) -> npt.NDArray[np.int64]:
        batch = self.items[where]
        batch = fill(batch, where.stop - where.start)
        assert len(batch) >= self.min_batch
        if len(batch) > self.memory:
            raise DeviceMemoryError("out of memory")
        self.sizes.append(len(batch))
        return batch * 2


@given(count=st.integers(1, 60), max_batch=st.integers(1, 16), min_batch=st.integers(1, 16), memory=st.integers(1, 60))
def test_every_item_once_or_a_clear_error(count: int, max_batch: int, min_batch: int, memory: int) -> None:
    min_batch = min(min_batch, max_batch)
    engine = Engine(np.arange(count), min_batch, memory)
    sizes = BatchSizes(((min_batch, max_batch),))
    if memory < min_batch:
        with pytest.raises(DeviceMemoryError, match=f"even a batch of {min_batch} does not fit"):
            run_in_chunks(count, max_batch, sizes, engine)
        return
    out, worked = run_in_chunks(count, max_batch, sizes, engine)
    np.testing.assert_array_equal(out, np.arange(count) * 2)
    assert min_batch <= worked <= max_batch
    assert max(engine.sizes) <= max(worked, min_batch)
    if memory >= max_batch:
        assert worked == max_batch
        assert len(engine.sizes) == -(-count // max_batch)


@given(
    count=st.integers(1, 80),
    profiles=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=3),
    memory=st.integers(1, 80),
    limit=st.integers(1, 30),
)
def test_between_profiles_there_are_gaps(count: int, profiles: list[tuple[int, int]], memory: int, limit: int) -> None:
    sizes = BatchSizes.of((low, low, low + more) for low, more in profiles)
    engine = Engine(np.arange(count), sizes.min, memory)
    if memory < sizes.min:
        with pytest.raises(DeviceMemoryError, match=f"even a batch of {sizes.min} does not fit"):
            run_in_chunks(count, limit, sizes, engine)
        return
    out, worked = run_in_chunks(count, limit, sizes, engine)
    np.testing.assert_array_equal(out, np.arange(count) * 2)
    assert all(size in sizes for size in engine.sizes)
    assert max(engine.sizes) <= max(worked, sizes.min)
    if limit <= memory:
        assert worked == limit


@pytest.mark.parametrize(
    ("profiles", "count", "sizes"),
    [
        ([(1, 1, 1), (8, 16, 32)], 40, [32, 8]),
        ([(1, 1, 1), (8, 16, 32)], 3, [1, 1, 1]),
        ([(1, 1, 1), (8, 16, 32)], 34, [32, 1, 1]),
        ([(1, 2, 7), (8, 16, 32)], 39, [32, 7]),
        # Below both, the smallest reaches back over what was run already.
        ([(4, 4, 4), (8, 16, 32)], 13, [13]),
        ([(4, 4, 4), (8, 16, 32)], 6, [4, 4]),
    ],
)
def test_the_chunks_of_two_profiles(profiles: list[Batch], count: int, sizes: list[int]) -> None:
    engine = Engine(np.arange(count), 1, 99)
    run_in_chunks(count, 32, BatchSizes.of(profiles), engine)
    assert engine.sizes == sizes


def test_without_memory_for_the_large_profile_the_small_one_runs() -> None:
    engine = Engine(np.arange(20), 1, 7)
    out, worked = run_in_chunks(20, 32, BatchSizes.of([(1, 1, 1), (8, 16, 32)]), engine)
    assert (len(out), worked, set(engine.sizes)) == (20, 1, {1})


def test_one_chunk_is_not_copied() -> None:
    rows = np.arange(4)
    out, _ = run_in_chunks(4, 8, BatchSizes(((1, 8),)), lambda _: rows)
    assert out is rows


def test_memory_is_asked_for_once_more_only() -> None:
    engine = Engine(np.arange(32), 1, 5)
    out, worked = run_in_chunks(32, 16, BatchSizes(((1, 16),)), engine)
    assert worked == 4
    assert engine.sizes == [4] * 8
    assert len(out) == 32


def test_other_errors_come_through() -> None:
    def fails(_: slice) -> npt.NDArray[np.int64]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run_in_chunks(3, 2, BatchSizes(((1, 2),)), fails)
