"""Arrays on a device as lazy as a GPU may be: what others read of ours, and when its memory goes."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_runtime.backends import cuda
from coda_runtime.backends.cuda import CudaArray, StagingPool
from coda_runtime.backends.cuda.transfers import Transfers
from tests.runtime.backends.cuda.driver.controls import LEGACY, PER_THREAD, POISON, Driver, Watch, at
from tests.runtime.backends.cuda.driver.others import Consumer, Stream

on_the_driver = pytest.mark.driver


@functools.cache
def pool(index: int) -> StagingPool:
    return StagingPool(cuda.open_device(index))


def make(values: np.ndarray[Any, Any], index: int = 0) -> tuple[CudaArray, Any]:
    """An array whose values are still to be written on the stream that comes with it."""
    layer = cuda.open_device(index)
    with layer.active():
        stream = layer.create_stream()
        return Transfers(layer, pool(index), stream).copy_in(values), stream


@on_the_driver
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int32, np.float32]),
        hnp.array_shapes(max_dims=4, max_side=5),
        elements=st.integers(0, 9),
    )
)
def test_numpy_waits_and_gives_a_copy(values: np.ndarray[Any, Any]) -> None:
    array, _ = make(values)
    found = array.numpy()
    np.testing.assert_array_equal(found, values)
    assert (array.shape, array.dtype, array.nbytes, array.device) == (
        values.shape, values.dtype, values.nbytes, "cuda:0",
    )  # fmt: skip
    found[...] = 0
    np.testing.assert_array_equal(array.numpy(), values)
    assert found.flags.writeable


@on_the_driver
@pytest.mark.parametrize("version", [(1, 0), None], ids=["DLPack 1", "before 1.0"])
def test_a_consumer_waits_for_the_data(version: tuple[int, int] | None) -> None:
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    array, _ = make(values, index=1)
    consumer = Consumer(array, version=version)
    assert (consumer.shape, consumer.dtype, consumer.versioned) == ((2, 3), np.dtype(np.int32), version is not None)
    assert consumer.address == array.memory.address
    read = consumer.read_later()
    consumer.stream.sync()
    np.testing.assert_array_equal(read, values)


@on_the_driver
@pytest.mark.parametrize(("stream", "waits"), [(None, True), (1, True), (2, True), (0, True), (-1, False)])
def test_whose_stream_waits(driver: Driver, stream: Any, waits: bool) -> None:
    """0 stands for a stream of the consumer's own."""
    layer, (array, _) = cuda.open_device(0), make(np.zeros(3, np.float32))
    own = Stream()
    array.__dlpack__(stream=own.handle if stream == 0 else stream)
    with layer.active():
        driver.sync({0: own.handle, -1: own.handle, 2: PER_THREAD}.get(stream, LEGACY))
        assert array.ready.is_done() == waits


@on_the_driver
def test_dlpack_rejects() -> None:
    array, _ = make(np.zeros(3, np.float32), index=1)
    assert array.__dlpack_device__() == (2, 1)
    with pytest.raises(ValueError, match="and not 0"):
        array.__dlpack__(stream=0)
    with pytest.raises(ValueError, match="-7"):
        array.__dlpack__(stream=-7)
    with pytest.raises(BufferError, match="copy=True"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match=r"lies on cuda:1, and dl_device is \(1, 0\)"):
        array.__dlpack__(dl_device=(1, 0))
    array.__dlpack__(dl_device=(2, 1), copy=False, max_version=(1, 1))


@on_the_driver
def test_the_array_interface_s_stream_has_waited() -> None:
    values = np.arange(4, dtype=np.float32)
    layer, (array, _) = cuda.open_device(0), make(values)
    told = array.__cuda_array_interface__
    assert (told["version"], told["shape"], told["typestr"], told["strides"]) == (3, (4,), "<f4", None)
    assert told["stream"] == layer.transfer_stream().handle
    layer.transfer_stream().sync()
    assert told["data"] == (array.memory.address, False)
    np.testing.assert_array_equal(at(array.memory.address, (4,), np.float32), values)


@on_the_driver
def test_memory_lives_as_long_as_the_last_owner() -> None:
    array, stream = make(np.full(8, 7, np.uint8))
    block = at(array.memory.address, (8,), np.uint8)
    consumer = Consumer(array)
    del array
    gc.collect()
    stream.sync()
    assert (block == 7).all()
    consumer.drop()
    gc.collect()
    stream.sync()
    assert (block == POISON).all()


@on_the_driver
def test_a_consumer_may_drop_an_array_before_it_was_read() -> None:
    """As torch does, with kernels still queued on the stream that it named."""
    array, stream = make(np.full(8, 7, np.uint8))
    block = at(array.memory.address, (8,), np.uint8)
    consumer = Consumer(array)
    read = consumer.read_later()
    del array
    consumer.drop()
    gc.collect()
    stream.sync()
    assert (read == 7).all()
    assert (block == POISON).all()


@on_the_driver
@pytest.mark.parametrize("how", ["stream -1", "array interface"])
def test_memory_whose_consumer_names_no_stream_is_freed_at_a_later_call(how: str) -> None:
    layer, (array, stream) = cuda.open_device(0), make(np.full(8, 7, np.uint8))
    block = at(array.memory.address, (8,), np.uint8)
    if how == "stream -1":
        array.__dlpack__(stream=-1)
    else:
        assert array.__cuda_array_interface__["shape"] == (8,)
    del array
    gc.collect()
    stream.sync()
    assert (block == 7).all()
    with layer.active():
        other = layer.allocate(8, stream)
    stream.sync()
    assert (block == POISON).all()
    del other


@on_the_driver
@given(seed=st.integers(1, 2**63), counts=st.lists(st.integers(1, 64), min_size=1, max_size=4))
def test_in_whatever_order_the_streams_run(driver: Driver, seed: int, counts: list[int]) -> None:
    """Arrays that are dropped early, by consumers on streams of their own, while the streams run as they like."""
    driver.chance(seed)
    reads = []
    for number, count in enumerate(counts):
        array, _ = make(np.full(count, number, np.uint8))
        consumer = Consumer(array)
        reads.append((consumer, consumer.read_later(), np.full(count, number, np.uint8)))
        consumer.drop()
        del array
    gc.collect()
    for consumer, read, expected in reads:
        consumer.stream.sync()
        np.testing.assert_array_equal(read, expected)


@on_the_driver
class TestStaging:
    def test_a_buffer_is_reused_when_its_copy_is_done(self) -> None:
        layer = cuda.open_device(0)
        with layer.active():
            pool, stream = StagingPool(layer), layer.create_stream()
            first = pool.take(100_000)
            assert first.array.nbytes == 1 << 17
            event = stream.record()
            pool.give(first, event)
            second = pool.take(100_000)
            assert second is not first
            event.sync()
            assert pool.take(90_000) is first
            assert pool.take(10) is not first
            pool.give(second)
            assert pool.take(100_000) is second

    def test_not_all_are_kept(self, gpu: Watch) -> None:
        layer = cuda.open_device(0)
        with layer.active():
            pool = StagingPool(layer, kept=8 << 16)
            before = gpu.locked
            taken = [pool.take(1) for _ in range(20)]
            size = taken[0].array.nbytes
            assert gpu.locked - before == 20 * size
            while taken:
                pool.give(taken.pop())
            gc.collect()
            assert gpu.locked - before == 8 * size

    def test_the_last_used_are_kept(self, driver: Driver) -> None:
        """What was used once, such as by tables, must not take the place of what every call needs."""
        layer = cuda.open_device(0)
        with layer.active():
            pool = StagingPool(layer, kept=10 << 16)
            for buffer in [pool.take(1 << 16) for _ in range(10)]:
                pool.give(buffer)
            gpu = Watch(driver)
            for _ in range(5):
                first, second = pool.take(1 << 17), pool.take(1 << 18)
                pool.give(first)
                pool.give(second)
            assert gpu.locks == [1 << 17, 1 << 18]

    def test_a_buffer_that_is_larger_than_all_that_is_kept_is_reused(self, gpu: Watch) -> None:
        layer = cuda.open_device(0)
        with layer.active():
            pool = StagingPool(layer, kept=1 << 16)
            for _ in range(3):
                pool.give(pool.take(1 << 20))
                pool.take(1)
            assert gpu.locks.count(1 << 20) == 1


def test_the_package_imports_no_cuda() -> None:
    code = (
        "import sys, coda_runtime.backends.cuda as c; c.missing('x'); print([n for n in sys.modules if 'cuda.b' in n])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
