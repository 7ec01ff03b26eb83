"""The layer on the stand-in for the driver: whose device it is, in what order memory goes, what fails."""

from __future__ import annotations

import ctypes
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends import cuda
from coda_runtime.backends.cuda import opening
from coda_runtime.errors import BackendError, DeviceError, DeviceMemoryError
from coda_runtime.machine import devices
from tests.runtime.backends.cuda.driver.controls import LEGACY, PER_THREAD, POISON, Driver, Watch, at
from tests.runtime.backends.cuda.driver.others import Stream
from tests.runtime.backends.cuda.held import current, filled, handed_out

pytestmark = pytest.mark.driver


@pytest.fixture
def layer() -> Any:
    return cuda.open_device(0)


def test_what_the_gpu_is(layer: Any) -> None:
    assert (cuda.compute_capability(1), cuda.gpu_name(1)) == ("sm90", "Stand-in 1")
    assert opening.driver_version(0) >= (13, 0)
    assert cuda.open_device(0) is layer
    with pytest.raises(DeviceError, match=r'"cuda:2", and the NVIDIA driver shows 2 GPUs here'):
        cuda.open_device(2)


def test_the_thread_s_context_is_put_back(layer: Any) -> None:
    other = cuda.open_device(1)
    assert current() is None
    with other.active():
        assert current() == 1
        with layer.active():
            assert current() == 0
            with layer.active():
                pass
            assert current() == 0
        assert current() == 1
    with pytest.raises(KeyError), layer.active():
        raise KeyError
    assert current() is None


def test_memory_is_of_its_device(layer: Any, driver: Driver) -> None:
    other, gpus = cuda.open_device(1), [Watch(driver, index) for index in range(2)]
    before = [gpu.pooled for gpu in gpus]
    with other.active():
        memory = other.allocate(64, other.create_stream())
    assert [gpu.pooled - held for gpu, held in zip(gpus, before, strict=True)] == [0, 64]
    del memory


def test_memory_is_freed_on_its_stream_after_its_readers(layer: Any) -> None:
    with layer.active():
        source, target, own = filled(layer, 7), layer.allocate_host(64), layer.create_stream()
        memory, readers = layer.allocate(64, own), [layer.create_stream() for _ in range(2)]
        layer.copy(memory.address, source.address, 64, own)
        written = own.record()
        for reader in readers:
            reader.wait(written)
            layer.copy(target.address, memory.address, 64, reader)
            memory.used_until(reader.record())
        block = at(memory.address, (64,), np.uint8)
        del memory
        gc.collect()
        own.sync()
        assert (block == POISON).all(), "it is freed"
        assert (target.array == 7).all(), "and was read before"


def test_an_array_that_is_read_again_and_again_collects_no_events(layer: Any) -> None:
    with layer.active():
        memory = layer.allocate(64, layer.create_stream())
        for _ in range(3):
            event = layer.create_stream().record()
            event.sync()
            memory.used_until(event)
        assert len(memory._readers) == 1


def test_another_thread_s_default_stream_has_read_before(layer: Any, driver: Driver) -> None:
    values: list[Any] = []
    with layer.active():
        own, source = layer.create_stream(), filled(layer, 7)
        memory = layer.allocate(64, own)
        layer.copy(memory.address, source.address, 64, own)
        written = own.record()
    address = memory.address

    def read() -> None:
        with layer.active():
            layer.make_wait(PER_THREAD, written)
            driver.push(PER_THREAD, lambda: values.append(at(address, (64,), np.uint8).copy()))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    memory.handed_out(PER_THREAD)
    del memory
    gc.collect()
    own.sync()
    assert (values[0] == 7).all()


def test_nothing_is_asked_while_an_object_goes_whose_consumer_named_no_stream(
    layer: Any, driver: Driver, gpu: Watch
) -> None:
    before = gpu.pooled
    memory = handed_out(layer, None)
    asked = [driver.called(name) for name in ("cuEventRecord", "cuStreamIsCapturing", "cuMemFreeAsync")]
    del memory
    gc.collect()
    assert asked == [driver.called(name) for name in ("cuEventRecord", "cuStreamIsCapturing", "cuMemFreeAsync")]
    assert gpu.pooled == before + 64
    with layer.active():
        layer.allocate(8, layer.create_stream())
    assert gpu.pooled == before


@pytest.mark.parametrize("named", ["the stream", "the legacy stream"])
def test_while_a_consumer_s_stream_is_recorded_memory_is_kept_and_freed_later(
    layer: Any, gpu: Watch, named: str
) -> None:
    before, other = gpu.pooled, Stream(blocking=True)
    other.begin_capture()
    memory = handed_out(layer, other.handle if named == "the stream" else LEGACY)
    del memory
    gc.collect()
    with layer.active():
        stream = layer.create_stream()
        kept = [layer.allocate(8, stream)]
        assert gpu.pooled == before + 64 + 8
        assert other.end_capture() == 0, "the recording is left alone"
        kept.append(layer.allocate(8, stream))
        assert gpu.pooled == before + 8 + 8
    del kept


def test_a_recording_that_begins_in_between(layer: Any, gpu: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    from coda_runtime.backends.cuda import device

    before, other, ask = gpu.pooled, Stream(), device._is_recording

    def begin_after(handle: int) -> bool:
        answer = ask(handle)
        if not answer:
            other.begin_capture()
        return answer

    memory = handed_out(layer, other.handle)
    with monkeypatch.context() as patch:
        patch.setattr(device, "_is_recording", begin_after)
        del memory
        gc.collect()
    assert gpu.pooled == before + 64, "the event is the recording's: nothing waits for it"
    assert other.end_capture() == 0
    with layer.active():
        layer.allocate(8, layer.create_stream())
    assert gpu.pooled == before


def test_a_consumer_s_stream_that_is_gone(layer: Any, gpu: Watch) -> None:
    before, other = gpu.pooled, Stream()
    memory = handed_out(layer, other.handle)
    other.destroy()
    del memory
    gc.collect()
    with layer.active():
        layer.allocate(8, layer.create_stream())
    assert gpu.pooled == before


def test_memory_may_go_while_a_graph_is_recorded(layer: Any, gpu: Watch) -> None:
    box, before = [handed_out(layer, Stream().handle)], gpu.pooled

    def work(handle: int) -> bool:
        box.clear()
        gc.collect()
        return True

    with layer.active():
        assert layer.capture(work) is not None
    assert gpu.pooled == before - 64


@pytest.mark.parametrize("failing", [True, False])
def test_a_recording_ends_in_any_case(layer: Any, driver: Driver, failing: bool) -> None:
    handles = []

    def work(handle: int) -> bool:
        handles.append(handle)
        assert driver.is_capturing(handle)
        if failing:
            raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        return False

    with layer.active():
        if failing:
            with pytest.raises(BackendError, match="INVALIDATED"):
                layer.capture(work)
        else:
            assert layer.capture(work) is None
        assert not driver.is_stream(handles[0]) or not driver.is_capturing(handles[0])
        assert layer.capture(lambda handle: True) is not None


def test_what_is_unsafe_is_refused_in_a_recording_of_ours(layer: Any, driver: Driver) -> None:
    """A library that waits while its work is recorded gets an error, and not a graph that lacks the waiting."""

    def work(handle: int) -> bool:
        address = ctypes.c_void_p()
        return bool(driver.library.cuMemAllocHost_v2(ctypes.byref(address), 64) == 0)

    with layer.active(), pytest.raises(BackendError, match=r"recording a CUDA graph .*INVALIDATED"):
        layer.capture(work)
    assert driver.breaches() != []


def test_other_threads_may_do_what_is_unsafe_while_we_record(layer: Any, driver: Driver) -> None:
    """They know nothing of us: torch allocates, and asks for events, in the middle of a recording of ours."""

    def lock_pages() -> int:
        address = ctypes.c_void_p()
        with layer.active():
            mode = ctypes.c_int(0)  # as others have it
            driver.library.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
            return int(driver.library.cuMemAllocHost_v2(ctypes.byref(address), 64))

    def work(handle: int) -> bool:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lock_pages).result() == 0

    with layer.active():
        assert layer.capture(work) is not None


@pytest.mark.parametrize("stream", [LEGACY, PER_THREAD, "own"])
def test_streams_of_others_wait(layer: Any, driver: Driver, stream: Any) -> None:
    with layer.active():
        event, handle = layer.create_stream().record(), Stream().handle if stream == "own" else stream
        layer.make_wait(handle, event)
        assert not event.is_done()
        driver.sync(handle)
        assert event.is_done()


def test_copies_and_no_memory(layer: Any, gpu: Watch) -> None:
    with layer.active():
        stream, source, target = layer.create_stream(), filled(layer, 7), layer.allocate_host(64)
        layer.copy(target.address, source.address, 5, stream)
        stream.sync()
        assert target.array.tolist() == [7] * 5 + [POISON] * 59
        gpu.leave(98)
        with pytest.raises(DeviceMemoryError, match=r"allocating 99 bytes on cuda:0"):
            layer.allocate(99, stream)
        layer.allocate(98, stream)


@pytest.mark.parametrize(
    ("function", "error", "kind", "text"),
    [
        ("cuMemcpyAsync", "CUDA_ERROR_ILLEGAL_ADDRESS", BackendError, "failed while copying 5 bytes"),
        ("cuMemAllocHost", "CUDA_ERROR_OUT_OF_MEMORY", DeviceMemoryError, "locking 64 bytes of host memory"),
        ("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", BackendError, "waiting for the GPU .*ILLEGAL_ADDR"),
        ("cuEventQuery", "CUDA_ERROR_ILLEGAL_ADDRESS", BackendError, "asking for an event"),
        ("cuStreamBeginCapture", "CUDA_ERROR_ILLEGAL_ADDRESS", BackendError, "recording a CUDA graph"),
        ("cuMemPoolTrimTo", "CUDA_ERROR_ILLEGAL_ADDRESS", BackendError, "answered CUDA_ERROR_ILLEGAL_ADDRESS"),
    ],
)
def test_errors_of_the_driver(
    layer: Any, driver: Driver, function: str, error: str, kind: type[Exception], text: str
) -> None:
    def calls() -> None:
        layer.allocate_host(64)
        layer.copy(target.address, source.address, 5, stream)
        stream.sync()
        stream.record().is_done()
        layer.capture(lambda handle: True)
        layer.trim()

    with layer.active():
        source, target, stream = filled(layer, 7), filled(layer, 0), layer.create_stream()
        driver.fail(function, error)
        with pytest.raises(kind, match=text):
            calls()
        stream.sync()
        assert current() == 0


def test_the_current_device_is_put_back() -> None:
    assert current() is None
    with devices.current_cuda_device(1):
        assert current() == 1
        with devices.current_cuda_device(0):
            assert current() == 0
        assert current() == 1
    assert current() is None
    with pytest.raises(DeviceError, match="does not make cuda:2 the current device"), devices.current_cuda_device(2):
        pass
