"""A graph that another library records as `torch.cuda.graph` does, in this thread or another, is not broken off."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends import cuda
from coda_runtime.backends.cuda.transfers import Transfers
from tests.runtime.backends.cuda.driver.controls import LEGACY, PER_THREAD, Driver, Watch
from tests.runtime.backends.cuda.driver.others import Stream
from tests.runtime.backends.cuda.held import handed_out

pytestmark = pytest.mark.driver


@pytest.fixture(params=["the same thread", "another thread"])
def beside(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Calls what it is given while a graph is recorded: from a blocking stream too, which the legacy one waits for."""

    def call(work: Callable[[], object], blocking: bool = False) -> None:
        stream = Stream(blocking=blocking)
        stream.begin_capture()
        if request.param == "the same thread":
            work()
        else:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(work).result()
        assert stream.end_capture() == 0

    return call


def test_pages_are_locked_and_freed(beside: Callable[..., None], gpu: Watch) -> None:
    """cuda.core's own page-locked memory is freed on the legacy stream, which breaks recordings off, or leaks."""
    layer, before = cuda.open_device(0), gpu.locked

    def work() -> None:
        with layer.active():
            memory = layer.allocate_host(64)
            assert gpu.locked == before + 64
            del memory
            gc.collect()

    for blocking in (False, True):
        beside(work, blocking)
        assert gpu.locked == before


def test_pages_are_freed_where_no_device_is_current(beside: Callable[..., None], gpu: Watch) -> None:
    layer, before = cuda.open_device(0), gpu.locked
    with layer.active():
        box = [layer.allocate_host(64)]
    beside(box.clear)
    assert gpu.locked == before


def test_events_are_asked_for_and_waited_for(beside: Callable[..., None]) -> None:
    """An event that is asked for outside the guard breaks off a recording of another thread."""
    layer = cuda.open_device(0)

    def work() -> None:
        with layer.active():
            stream = layer.create_stream()
            event = stream.record()
            assert not event.is_done()
            event.sync()
            assert event.is_done()
            stream.sync()

    beside(work)


def test_memory_is_freed(beside: Callable[..., None], gpu: Watch) -> None:
    layer, before = cuda.open_device(0), gpu.pooled

    def work() -> None:
        memory = handed_out(layer, LEGACY, PER_THREAD, Stream().handle)
        with layer.active():
            memory.used_until(layer.create_stream().record())
        del memory
        gc.collect()

    beside(work)
    assert gpu.pooled == before


def test_pages_that_are_still_copied_from_are_waited_for(beside: Callable[..., None], gpu: Watch) -> None:
    """A pool that is dropped unlocks its pages: not before the copies that are queued have read them."""
    layer, values, before = cuda.open_device(0), np.arange(64, dtype=np.int32), gpu.locked
    arrays = []

    def work() -> None:
        with layer.active():
            staging = cuda.StagingPool(layer)
            array = Transfers(layer, staging, layer.create_stream()).copy_in(values)
            array._staging = cuda.StagingPool(layer)
            arrays.append(array)
            del staging
            gc.collect()

    beside(work)
    assert gpu.locked == before
    np.testing.assert_array_equal(arrays.pop().numpy(), values)


@pytest.mark.parametrize("named", ["the stream", "the legacy stream", "another stream"])
def test_an_array_is_handed_over(named: str) -> None:
    """To the stream that is recorded, too: a wait of that for work outside would break the recording off."""
    layer = cuda.open_device(0)
    with layer.active():
        staging = cuda.StagingPool(layer)
        array = Transfers(layer, staging, layer.create_stream()).copy_in(np.arange(64, dtype=np.int32))
    stream = Stream(blocking=True)
    handle = {"the stream": stream.handle, "the legacy stream": LEGACY}.get(named, Stream().handle)
    stream.begin_capture()
    array.__dlpack__(stream=handle, max_version=(1, 0))
    assert stream.end_capture() == 0
    assert array.ready.is_done() == (named != "another stream")


def test_memory_is_given_back(beside: Callable[..., None], driver: Driver, gpu: Watch) -> None:
    layer = cuda.open_device(0)
    driver.finish()
    with layer.active():
        stream = layer.create_stream()
        layer.allocate(1 << 20, stream)
        stream.sync()
        assert gpu.reserved >= gpu.pooled + (1 << 20)
    beside(lambda: _trim(layer))
    assert gpu.reserved == gpu.pooled


def _trim(layer: Any) -> None:
    with layer.active():
        layer.trim()
