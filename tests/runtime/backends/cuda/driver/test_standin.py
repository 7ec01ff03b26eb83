"""What the stand-in finds: each misuse is a breach, and what is not ordered comes out wrong."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.runtime.backends.cuda.driver.controls import LEGACY, POISON, Driver, Watch, at
from tests.runtime.backends.cuda.driver.others import Consumer, Producer, Stream, current_device

pytestmark = pytest.mark.driver


def pooled(driver: Driver, stream: Stream, nbytes: int = 64) -> int:
    address = ctypes.c_uint64()
    with current_device(stream.index):
        result = driver.library.cuMemAllocAsync(ctypes.byref(address), ctypes.c_size_t(nbytes), pointer(stream.handle))
    assert result == 0
    return address.value


def locked(driver: Driver, nbytes: int = 64) -> int:
    address = ctypes.c_void_p()
    with current_device(0):
        assert driver.library.cuMemAllocHost_v2(ctypes.byref(address), ctypes.c_size_t(nbytes)) == 0
    return int(address.value or 0)


def free(driver: Driver, address: int, stream: Stream) -> int:
    return int(driver.library.cuMemFreeAsync(ctypes.c_uint64(address), pointer(stream.handle)))


def pointer(handle: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(handle)


def copied(driver: Driver, stream: Stream, target: int, source: int, nbytes: int = 64) -> int:
    with current_device(stream.index):
        return int(
            driver.library.cuMemcpyAsync(
                ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(nbytes), pointer(stream.handle)
            )
        )


def test_work_waits_until_somebody_waits_for_it(driver: Driver) -> None:
    stream, source = Stream(), locked(driver)
    target = pooled(driver, stream)
    at(source, (64,), np.uint8).fill(7)
    assert copied(driver, stream, target, source) == 0
    assert (at(target, (64,), np.uint8) == POISON).all()
    stream.sync()
    assert (at(target, (64,), np.uint8) == 7).all()


def test_what_does_not_wait_reads_what_was_not_written(driver: Driver) -> None:
    writer, reader, source = Stream(), Stream(), locked(driver)
    target = pooled(driver, writer)
    at(source, (64,), np.uint8).fill(7)
    assert copied(driver, writer, target, source) == 0
    out = locked(driver)
    assert copied(driver, reader, out, target) == 0
    reader.sync()
    assert (at(out, (64,), np.uint8) == POISON).all()
    writer.let_wait(reader.handle)
    assert copied(driver, reader, out, target) == 0
    reader.sync()
    assert (at(out, (64,), np.uint8) == 7).all()


def test_the_legacy_stream_waits_for_blocking_streams_and_they_for_it(driver: Driver) -> None:
    order: list[str] = []
    blocking, other = Stream(blocking=True), Stream()
    driver.push(blocking.handle, lambda: order.append("before"))
    driver.push(other.handle, lambda: order.append("beside"))
    with current_device(0):
        driver.push(LEGACY, lambda: order.append("legacy"))
    driver.push(blocking.handle, lambda: order.append("after"))
    blocking.sync()
    assert order == ["before", "legacy", "after"]
    other.sync()
    assert order[3:] == ["beside"]


def test_chance_runs_work_before_anybody_waits(driver: Driver) -> None:
    orders = set()
    for seed in range(1, 20):
        order: list[int] = []
        driver.chance(seed)
        streams = [Stream() for _ in range(3)]
        for number, stream in enumerate(streams):
            driver.push(stream.handle, partial(order.append, number))
        for _ in range(60):
            driver.library.cuDriverGetVersion(ctypes.byref(ctypes.c_int()))
        assert sorted(order) == [0, 1, 2]
        orders.add(tuple(order))
    assert len(orders) > 3


def test_freed_memory_is_overwritten_in_the_order_of_its_stream(driver: Driver, gpu: Watch) -> None:
    before, stream = gpu.pooled, Stream()
    address = pooled(driver, stream)
    at(address, (64,), np.uint8).fill(7)
    assert gpu.pooled == before + 64
    assert free(driver, address, stream) == 0
    assert gpu.pooled == before
    assert (at(address, (64,), np.uint8) == 7).all()
    stream.sync()
    assert (at(address, (64,), np.uint8) == POISON).all()


@pytest.mark.parametrize(
    ("misuse", "told"),
    [
        ("freed twice", "was freed"),
        ("used after it was freed", "a copy's source uses memory that was freed"),
        ("freed before its copy runs", "a copy runs after its memory was freed"),
        ("past the end", "a copy's target goes past the end of its memory"),
        ("freed on another device", "memory of device 0 is freed on a stream of another"),
        ("a free that is captured", "a free of memory that the capture did not allocate breaks off the capture"),
        ("destroyed while captured", "is destroyed while it is captured"),
        ("no context", "cuMemAllocHost_v2 without a current context"),
    ],
)
def test_misuse_of_memory_and_streams(driver: Driver, misuse: str, told: str) -> None:
    stream, elsewhere = Stream(), Stream(1)
    address, out = pooled(driver, stream), locked(driver)
    if misuse == "freed twice":
        assert free(driver, address, stream) == 0
        assert free(driver, address, stream) != 0
    elif misuse == "used after it was freed":
        assert free(driver, address, stream) == 0
        assert copied(driver, stream, out, address) != 0
    elif misuse == "freed before its copy runs":
        reader = Stream()
        assert copied(driver, reader, out, address) == 0
        assert free(driver, address, stream) == 0
        stream.sync()
        reader.sync()
    elif misuse == "past the end":
        assert copied(driver, stream, address + 8, out) != 0
    elif misuse == "freed on another device":
        free(driver, address, elsewhere)
    elif misuse == "a free that is captured":
        stream.begin_capture()
        assert free(driver, address, stream) != 0
        assert stream.end_capture() != 0
    elif misuse == "destroyed while captured":
        stream.begin_capture()
        stream.destroy()
    else:
        assert driver.library.cuMemAllocHost_v2(ctypes.byref(ctypes.c_void_p()), 64) != 0
    (found,) = driver.breaches()
    assert told in found


PTX = b""".version 8.0
.visible .entry work(
    .param .u64 .ptr .global .align 1 a,
    .param .u32 b,
    .param .f32 c
)
{}
"""


@pytest.mark.parametrize(
    ("misuse", "told"),
    [
        (None, None),
        ("alignment", "parameter 0 of work is not aligned to 16 bytes"),
        ("another device", "parameter 0 of work is no memory of device 0"),
        ("freed", "parameter 0 of work uses memory that was freed"),
    ],
)
def test_arguments_of_kernels(driver: Driver, misuse: str | None, told: str | None) -> None:
    from cuda.core import LaunchConfig, ObjectCode, launch
    from cuda.core import Stream as CoreStream

    stream, seen = Stream(), []
    memory = pooled(driver, Stream(1) if misuse == "another device" else stream)
    driver.add_kernels({"work": lambda arguments: seen.append(bytes(at(arguments, (16,), np.uint8)))})
    if misuse == "freed":
        assert free(driver, memory, stream) == 0
    with current_device(0):
        kernel = ObjectCode.from_ptx(PTX, name="work").get_kernel("work")
        address = memory + 4 * (misuse == "alignment")
        config = LaunchConfig(grid=2, block=32)
        launch(CoreStream.from_handle(stream.handle), config, kernel, address, np.int32(-5), np.float32(0.5))
        assert seen == []
        stream.sync()
    assert seen == [address.to_bytes(8, "little") + np.int32(-5).tobytes() + np.float32(0.5).tobytes()]
    assert [line for line in driver.breaches() if told is None or told not in line] == []
    assert told is None or driver.called("cuLaunchKernelEx") == 0, "breaches() forgets calls too"


def test_a_kernel_of_a_stream_of_another_device(driver: Driver) -> None:
    from cuda.core import LaunchConfig, ObjectCode, launch
    from cuda.core import Stream as CoreStream

    with current_device(0):
        kernel = ObjectCode.from_ptx(PTX, name="work").get_kernel("work")
        with pytest.raises(Exception, match="INVALID_HANDLE"):
            launch(CoreStream.from_handle(Stream(1).handle), LaunchConfig(grid=1, block=1), kernel, 0, np.int32(0),
                   np.float32(0))  # fmt: skip
    assert driver.breaches() == ["work is launched on a stream of another context"]


def test_an_error_that_is_asked_for_comes_once(driver: Driver) -> None:
    stream = Stream()
    driver.fail("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS")
    with current_device(0):
        assert driver.library.cuStreamSynchronize(pointer(stream.handle)) == 700
        assert driver.library.cuStreamSynchronize(pointer(stream.handle)) == 0
    assert driver.called("cuStreamSynchronize") == 2


def test_python_that_fails_in_the_driver_is_told(driver: Driver) -> None:
    stream = Stream()
    driver.push(stream.handle, lambda: 1 / 0)
    stream.sync()
    (failure,) = driver.failures
    assert "ZeroDivisionError" in failure
    driver.failures.clear()


def test_arrays_of_another_library_go_there_and_back(driver: Driver, foreign: Any) -> None:
    """The producer and the consumer of the tests, without anything of ours between them."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    producer = foreign(values)
    with current_device(0):
        consumer = Consumer(producer)
    read = consumer.read_later()
    consumer.stream.sync()
    np.testing.assert_array_equal(read, values)
    with pytest.raises(BufferError, match="different CUDA device"), current_device(1):
        Producer.__dlpack__(producer, stream=1)
    assert not producer.life.ended
