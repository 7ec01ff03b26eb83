"""The real layer: one GPU through cuda.core. Every call is checked against cuda-core's stubs."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.core import (
    LEGACY_DEFAULT_STREAM,
    PER_THREAD_DEFAULT_STREAM,
    Buffer,
    Device,
    Stream,
    StreamOptions,
)
from cuda.core.utils import StridedMemoryView

from ...errors import BackendError
from ...io.counts import count
from . import layer
from .failures import failures
from .memory import CudaHostMemory, CudaMemory, Owner
from .streams import CudaEvent, CudaGraph, CudaStream

_LEGACY, _PER_THREAD = 1, 2
"""The driver's handles of the default streams. The legacy one waits for all blocking streams of the context."""


class CudaDevice:
    """One GPU in its primary context, which is the one that torch and the CUDA runtime use, too."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._process = os.getpid()
        self._unreleased: deque[tuple[Buffer, CudaStream, set[int]]] = deque()
        with failures(f"opening cuda:{index}"):
            Device(index)  # starts the driver, without which no context can be asked for
            with self.active():
                self._transfer = CudaStream(self._create_stream())

    @contextmanager
    def active(self) -> Iterator[None]:
        """See DeviceLayer. The device is the thread's, and the thread is the caller's: it is put back.

        Nothing in here is work of a stream that others record from, but to lock pages, to ask for an event or to wait
        for one would break off their recordings, as `torch.cuda.graph` makes them, in this thread and in others.
        """
        with failures(f"making cuda:{self.index} the current device"):
            before = _checked(driver.cuCtxGetCurrent())
            Device(self.index).set_current()
        try:
            with _capture_mode(driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED):
                yield
        finally:
            _checked(driver.cuCtxSetCurrent(before))

    def create_stream(self) -> CudaStream:
        """See DeviceLayer."""
        with failures("making a stream"):
            return CudaStream(self._create_stream())

    def transfer_stream(self) -> CudaStream:
        """See DeviceLayer."""
        return self._transfer

    def allocate(self, nbytes: int, stream: layer.Stream) -> CudaMemory:
        """See DeviceLayer: from the device's stream-ordered pool."""
        assert isinstance(stream, CudaStream)  # noqa: S101 - for the type checker: a layer's parts go together
        with failures(f"allocating {count(nbytes, 'byte')} on cuda:{self.index}"):
            self._release_again()
            buffer = Device(self.index).allocate(nbytes, stream=stream.raw)
            return CudaMemory(self, buffer, nbytes, stream)

    def allocate_host(self, nbytes: int) -> CudaHostMemory:
        """See DeviceLayer."""
        with failures(f"locking {count(nbytes, 'byte')} of host memory"):
            result, address = driver.cuMemAllocHost(nbytes)
            if result != driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(result.name)
            return CudaHostMemory(self, int(address), nbytes)

    def is_gone(self) -> bool:
        """Return whether the driver is gone, which takes its memory back: as Python ends, and in a forked child."""
        return sys.is_finalizing() or os.getpid() != self._process

    def free_host(self, address: int) -> None:
        """Unlock pages. cuda.core would wait for the legacy stream first, which breaks off others' recordings."""
        if not self.is_gone():
            with self.active():
                _checked(driver.cuMemFreeHost(address))

    def trim(self) -> None:
        """See DeviceLayer. cuda.core lets the device's pool keep what is freed, and torch allocates past that pool."""
        with failures("giving memory back"):
            self._release_again()
            _checked(driver.cuMemPoolTrimTo(_checked(driver.cuDeviceGetMemPool(self.index)), 0))

    def copy(self, target: int, source: int, nbytes: int, stream: layer.Stream) -> None:
        """See DeviceLayer."""
        assert isinstance(stream, CudaStream)  # noqa: S101 - see allocate
        with failures(f"copying {count(nbytes, 'byte')}"):
            Buffer.from_handle(target, nbytes).copy_from(Buffer.from_handle(source, nbytes), stream=stream.raw)

    def capture(self, work: Callable[[int], bool]) -> CudaGraph | None:
        """See DeviceLayer. Other threads may go on: only unsafe calls of this one are refused meanwhile."""
        own = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with failures("recording a CUDA graph"), _capture_mode(own):
            builder = Device(self.index).create_graph_builder()
            try:
                builder.begin_building("thread_local")
                try:
                    recorded = work(int(builder.stream.handle))
                finally:
                    builder.end_building()
                return CudaGraph(builder.complete()) if recorded else None
            finally:
                builder.close()

    def make_wait(self, handle: int, event: layer.Event) -> None:
        """See DeviceLayer."""
        assert isinstance(event, CudaEvent)  # noqa: S101 - see allocate
        with failures("ordering another stream"):
            if _is_recording(handle):
                event.sync()  # what is recorded waits for nothing outside, which would break the recording off
                return
            if handle == _LEGACY:
                stream = LEGACY_DEFAULT_STREAM
            elif handle == _PER_THREAD:
                stream = PER_THREAD_DEFAULT_STREAM
            else:
                stream = Stream.from_handle(handle)
            stream.wait(event.raw)

    def capsule(
        self, memory: layer.Memory, shape: tuple[int, ...], dtype: np.dtype[Any], max_version: tuple[int, int] | None
    ) -> object:
        """See DeviceLayer."""
        with failures("handing an array out"):
            owner = Owner(memory, self.index)
            # The stream orders nothing here: `owner` frees nothing itself.
            buffer = Buffer.from_handle(memory.address, memory.nbytes, mr=owner, stream=self._transfer.raw)
            return StridedMemoryView.from_buffer(buffer, shape, dtype=dtype).__dlpack__(max_version=max_version)

    def release(
        self, buffer: Buffer, stream: CudaStream, readers: list[CudaEvent], consumers: Collection[int | None]
    ) -> None:
        """Free `buffer` in the order of `stream`, after its readers and what its consumers have queued.

        Called while an object goes, maybe while somebody records a graph: takes no lock, waits for nothing, and asks
        nothing of the context. What cannot be ordered now stays until the next allocation.
        """
        if self.is_gone():
            self._unreleased.append((buffer, stream, set()))  # cuda.core complains where it cannot free it
            return
        with self.active():
            for event in readers:
                stream.wait(event)
            left: set[int] = set()
            for handle in consumers:
                if handle is None:
                    left |= {_LEGACY, self._transfer.handle}
                else:
                    # This thread's default stream need not be the consumer's; the legacy one waits for all of them.
                    left |= self._wait_for(stream, _LEGACY if handle == _PER_THREAD else handle)
            if left:
                self._unreleased.append((buffer, stream, left))
            else:
                buffer.close(stream.raw)

    def _release_again(self) -> None:
        for _ in range(len(self._unreleased)):
            try:
                buffer, stream, consumers = self._unreleased.popleft()
            except IndexError:  # another thread took it
                return
            self.release(buffer, stream, [], consumers)

    def _wait_for(self, stream: CudaStream, handle: int) -> set[int]:
        """Let `stream` wait for what is queued on another; if that cannot be had now, what to wait for later."""
        try:
            if _is_recording(handle):
                return {handle}
            event = Device(self.index).create_event()
            _checked(driver.cuEventRecord(event.handle, handle))
            # Another thread may have begun a recording since it was asked, and then the event belongs to that.
            if _is_recording(handle):
                return {handle}
        except BackendError:  # no stream of this context, or one that is gone
            return {_LEGACY}
        stream.raw.wait(event)
        return set()

    def _create_stream(self) -> Stream:
        return Device(self.index).create_stream(options=StreamOptions(nonblocking=True))


@contextmanager
def _capture_mode(mode: driver.CUstreamCaptureMode) -> Iterator[None]:
    """Set which recordings forbid this thread what."""
    before = _checked(driver.cuThreadExchangeStreamCaptureMode(mode))
    try:
        yield
    finally:
        _checked(driver.cuThreadExchangeStreamCaptureMode(before))


def _is_recording(handle: int) -> bool:
    """Return whether a graph is being recorded from a stream. To ask does no harm to the recording."""
    result, status = driver.cuStreamIsCapturing(handle)
    # The legacy stream's answer while any blocking stream is recorded.
    if result == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
        return True
    _checked((result,))
    return bool(status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return what a function of the driver returned, without its result code. Raises BackendError."""
    if answer[0] != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(f"the CUDA driver answered {answer[0].name}; see `coda doctor`")
    return answer[1] if len(answer) > 1 else None
