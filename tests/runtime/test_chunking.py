"""A batch of any size through engines of limited batches, also where memory runs out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import DeviceMemoryError, InputError
from coda_runtime.chunking import run_in_chunks


class Engine:
    """Doubles its items, in batches from `min_batch`; has memory for `memory` of them."""

    def __init__(self, items: npt.NDArray[np.int64], min_batch: int, memory: int) -> None:
        self.items, self.min_batch, self.memory = items, min_batch, memory
        self.sizes: list[int] = []

    def __call__(self, where: slice) -> npt.NDArray[np.int64]:
        batch = self.items[where]
        assert len(batch) >= self.min_batch
        assert len(batch) == where.stop - where.start
        if len(batch) > self.memory:
            raise DeviceMemoryError("out of memory")
        self.sizes.append(len(batch))
        return batch * 2


@given(count=st.integers(1, 60), max_batch=st.integers(1, 16), min_batch=st.integers(1, 16), memory=st.integers(1, 60))
def test_every_item_once_or_a_clear_error(count: int, max_batch: int, min_batch: int, memory: int) -> None:
    min_batch = min(min_batch, max_batch)
    engine = Engine(np.arange(count), min_batch, memory)
    if count < min_batch:
        with pytest.raises(InputError, match=f"from {min_batch} to {max_batch} images, and this call has {count}"):
            run_in_chunks(count, max_batch, min_batch, engine)
        return
    if memory < min_batch and (memory < count):
        with pytest.raises(DeviceMemoryError, match=f"even a batch of {min_batch} does not fit"):
            run_in_chunks(count, max_batch, min_batch, engine)
        return
    out, worked = run_in_chunks(count, max_batch, min_batch, engine)
    np.testing.assert_array_equal(out, np.arange(count) * 2)
    assert min_batch <= worked <= max_batch
    assert max(engine.sizes) <= max(worked, min_batch)
    if memory >= max_batch:
        assert worked == max_batch
        assert len(engine.sizes) == -(-count // max_batch)


def test_one_chunk_is_not_copied() -> None:
    rows = np.arange(4)
    out, _ = run_in_chunks(4, 8, 1, lambda _: rows)
    assert out is rows


def test_memory_is_asked_for_once_more_only() -> None:
    engine = Engine(np.arange(32), 1, 5)
    out, worked = run_in_chunks(32, 16, 1, engine)
    assert worked == 4
    assert engine.sizes == [4] * 8
    assert len(out) == 32


def test_other_errors_come_through() -> None:
    def fails(_: slice) -> npt.NDArray[np.int64]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run_in_chunks(3, 2, 1, fails)
