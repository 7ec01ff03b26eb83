"""Arrays on the tests' layer, and the parts of the real one that need no GPU."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_runtime.backends.cuda import CudaArray, StagingPool
from tests.runtime.backends.cuda.host import POISON, Consumer, HostLayer, HostStream


def make(values: np.ndarray[Any, Any], layer: HostLayer | None = None) -> tuple[CudaArray, HostStream]:
    """An array whose values are still to be written on the stream that comes with it."""
    layer = layer or HostLayer()
    with layer.active():
        stream = layer.create_stream()
        source, memory = layer.allocate_host(max(1, values.nbytes)), layer.allocate(max(1, values.nbytes), stream)
        source.array[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        layer.copy(memory.address, source.address, values.nbytes, stream)
        stream.push(lambda: source)  # the source stays until it was read
        return CudaArray(layer, StagingPool(layer), memory, values.shape, values.dtype, stream.record()), stream


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


def test_a_consumer_waits_for_the_data() -> None:
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    array, _ = make(values)
    consumer = Consumer(array)
    read = consumer.read_later()
    consumer.stream.sync()
    np.testing.assert_array_equal(read[0], values)


@pytest.mark.parametrize(("stream", "waits"), [(None, [1]), (1, [1]), (2, [2]), (0x7F00, [0x7F00]), (-1, [])])
def test_whose_stream_waits(stream: Any, waits: list[int]) -> None:
    layer = HostLayer()
    array, _ = make(np.zeros(3, np.float32), layer)
    array.__dlpack__(stream=stream)
    assert layer.foreign_waits == waits


def test_dlpack_rejects() -> None:
    array, _ = make(np.zeros(3, np.float32), HostLayer(1))
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


def test_the_array_interface_s_stream_has_waited() -> None:
    values = np.arange(4, dtype=np.float32)
    layer = HostLayer()
    array, _ = make(values, layer)
    told = array.__cuda_array_interface__
    assert (told["version"], told["shape"], told["typestr"], told["strides"]) == (3, (4,), "<f4", None)
    assert told["stream"] == layer.transfer_stream().handle
    layer.transfer_stream().sync()
    memory: Any = array.memory
    assert told["data"] == (memory.address, False)
    np.testing.assert_array_equal(memory.array.view(np.float32), values)


def test_memory_lives_as_long_as_the_last_owner() -> None:
    values = np.full(8, 7, np.uint8)
    array, stream = make(values)
    memory: Any = array.memory
    block = memory.array
    consumer = Consumer(array)
    del array, memory
    gc.collect()
    stream.sync()
    assert (block == 7).all()
    consumer.drop()
    gc.collect()
    stream.sync()
    assert (block == POISON).all()


@pytest.mark.parametrize("how", ["stream -1", "array interface"])
def test_memory_whose_consumer_names_no_stream_is_freed_at_a_later_call(how: str) -> None:
    layer = HostLayer()
    array, stream = make(np.full(8, 7, np.uint8), layer)
    memory: Any = array.memory
    block = memory.array
    if how == "stream -1":
        array.__dlpack__(stream=-1)
    else:
        assert array.__cuda_array_interface__["shape"] == (8,)
    del array, memory
    gc.collect()
    stream.sync()
    assert (block == 7).all()
    with layer.active():
        other = layer.allocate(8, stream)
    stream.sync()
    assert (block == POISON).all()
    del other


class TestStaging:
    def test_a_buffer_is_reused_when_its_copy_is_done(self) -> None:
        layer = HostLayer()
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

    def test_not_all_are_kept(self) -> None:
        layer = HostLayer()
        with layer.active():
            pool = StagingPool(layer, kept=8 << 16)
            taken = [pool.take(1) for _ in range(20)]
            size = taken[0].array.nbytes
            assert layer.live == 20 * size
            while taken:
                pool.give(taken.pop())
            gc.collect()
            assert layer.live == 8 * size

    def test_the_last_used_are_kept(self) -> None:
        """What was used once, such as by tables, must not take the place of what every call needs."""
        layer = HostLayer()
        with layer.active():
            pool = StagingPool(layer, kept=10 << 16)
            for buffer in [pool.take(1 << 16) for _ in range(10)]:
                pool.give(buffer)
            layer.locked.clear()
            for _ in range(5):
                first, second = pool.take(1 << 17), pool.take(1 << 18)
                pool.give(first)
                pool.give(second)
            assert layer.locked == [1 << 17, 1 << 18]

    def test_a_buffer_that_is_larger_than_all_that_is_kept_is_reused(self) -> None:
        layer = HostLayer()
        with layer.active():
            pool = StagingPool(layer, kept=1 << 16)
            for _ in range(3):
                pool.give(pool.take(1 << 20))
                pool.take(1)
            assert layer.locked.count(1 << 20) == 1


def test_the_package_imports_no_cuda() -> None:
    code = (
        "import sys, coda_runtime.backends.cuda as c; c.missing('x'); print([n for n in sys.modules if 'cuda.b' in n])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
