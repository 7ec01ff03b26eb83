"""A batch of any size through engines of limited batches, also where memory runs out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import DeviceMemoryError, InputError
from coda_runtime.pieces import in_pieces


class Engine:
    """Doubles its items, in batches from `least`; has memory for `memory` of them."""

    def __init__(self, items: npt.NDArray[np.int64], least: int, memory: int) -> None:
        self.items, self.least, self.memory = items, least, memory
        self.sizes: list[int] = []

    def __call__(self, where: slice) -> npt.NDArray[np.int64]:
        batch = self.items[where]
        assert len(batch) >= self.least
        assert len(batch) == where.stop - where.start
        if len(batch) > self.memory:
            raise DeviceMemoryError("out of memory")
        self.sizes.append(len(batch))
        return batch * 2


@given(count=st.integers(1, 60), most=st.integers(1, 16), least=st.integers(1, 16), memory=st.integers(1, 60))
def test_every_item_once_or_a_clear_error(count: int, most: int, least: int, memory: int) -> None:
    least = min(least, most)
    engine = Engine(np.arange(count), least, memory)
    if count < least:
        with pytest.raises(InputError, match=f"from {least} to {most} images, and this call has {count}"):
            in_pieces(count, most, least, engine)
        return
    if memory < least and (memory < count):
        with pytest.raises(DeviceMemoryError, match=f"even a batch of {least} does not fit"):
            in_pieces(count, most, least, engine)
        return
    out, worked = in_pieces(count, most, least, engine)
    np.testing.assert_array_equal(out, np.arange(count) * 2)
    assert least <= worked <= most
    assert max(engine.sizes) <= max(worked, least)
    if memory >= most:
        assert worked == most
        assert len(engine.sizes) == -(-count // most)


def test_one_piece_is_not_copied() -> None:
    rows = np.arange(4)
    out, _ = in_pieces(4, 8, 1, lambda _: rows)
    assert out is rows


def test_memory_is_asked_for_once_more_only() -> None:
    engine = Engine(np.arange(32), 1, 5)
    out, worked = in_pieces(32, 16, 1, engine)
    assert worked == 4
    assert engine.sizes == [4] * 8
    assert len(out) == 32


def test_other_errors_come_through() -> None:
    def fails(_: slice) -> npt.NDArray[np.int64]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_pieces(3, 2, 1, fails)
