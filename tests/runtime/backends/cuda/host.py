"""A layer whose memory is the host's, as lazy as a GPU may be: queued work runs when somebody waits for it.

So whatever is not ordered by an event runs too late, and memory that is freed is overwritten in stream order: what
forgets to wait, or to keep memory, reads garbage here.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from coda_runtime.errors import BackendError, DeviceMemoryError

POISON = 0xEE
_mapped: list[Any] = []  # freed memory stays mapped, as a GPU's does: a late access reads poison and crashes nothing
_lock = threading.RLock()
_handles = itertools.count(0x1000, 0x10)
STREAMS: weakref.WeakValueDictionary[int, HostStream] = weakref.WeakValueDictionary()


class HostEvent:
    def __init__(self, stream: HostStream) -> None:
        self._stream = stream
        self.passed = False

    def is_done(self) -> bool:
        return self.passed

    def sync(self) -> None:
        self._stream.run_until(self)


class HostStream:
    def __init__(self) -> None:
        self.handle = next(_handles)
        self.queue: deque[Any] = deque()
        self.recording: list[Callable[[], object]] | None = None
        STREAMS[self.handle] = self

    def push(self, work: Callable[[], object]) -> None:
        with _lock:
            (self.queue if self.recording is None else self.recording).append(work)

    def record(self) -> HostEvent:
        event = HostEvent(self)
        with _lock:
            self.queue.append(event)
        return event

    def wait(self, event: Any) -> None:
        self.push(event.sync)

    def sync(self) -> None:
        with _lock:
            self.queue.append(event := HostEvent(self))
        self.run_until(event)

    def run_until(self, event: HostEvent) -> None:
        with _lock:
            while not event.passed:
                step = self.queue.popleft()
                if isinstance(step, HostEvent):
                    step.passed = True
                else:
                    step()


class HostMemory:
    """Serves as device memory, and as page-locked memory."""

    def __init__(self, layer: HostLayer, nbytes: int, stream: HostStream | None) -> None:
        self.array = np.full(nbytes, POISON, np.uint8)
        _mapped.append(self.array)
        self.address = self.array.ctypes.data
        self.nbytes = nbytes
        self._layer = layer
        self._stream = stream
        self._readers: list[Any] = []
        self._consumers: set[int | None] = set()

    def used_until(self, event: Any) -> None:
        self._readers.append(event)

    def handed_out(self, stream: int | None) -> None:
        self._consumers.add(stream)

    def __del__(self) -> None:
        array = self.array
        if self._stream is None:
            self._layer.live -= self.nbytes
            array.fill(POISON)
            return
        for event in self._readers:
            self._stream.wait(event)
        for handle in self._consumers - {None}:
            if handle in STREAMS and STREAMS[handle] is not self._stream:
                self._stream.wait(STREAMS[handle].record())
        if None in self._consumers:
            self._layer.unreleased.append((array, self._stream))
        else:
            self._layer.free(array, self._stream)


class HostGraph:
    def __init__(self, work: list[Callable[[], object]]) -> None:
        self.work = work
        self.launches = 0

    def launch(self, stream: Any) -> None:
        self.launches += 1
        for step in self.work:
            stream.push(step)


class HostLayer:
    """`limit` bytes of memory; `index` as a GPU's; `reject_capture` makes every recording fail."""

    def __init__(self, index: int = 0, limit: int = 1 << 30) -> None:
        self.index = index
        self.limit = limit
        self.live = 0
        self.locked: list[int] = []  # sizes of all page-locked memory that was ever asked for
        self.unreleased: list[tuple[Any, HostStream]] = []
        self.reject_capture = False
        self.graphs: list[HostGraph] = []
        self.foreign_waits: list[int] = []
        self.depth = threading.local()
        self._transfer = HostStream()

    @contextmanager
    def active(self) -> Iterator[None]:
        before = getattr(self.depth, "value", 0)
        self.depth.value = before + 1
        try:
            yield
        finally:
            self.depth.value = before

    def _check_active(self) -> None:
        assert getattr(self.depth, "value", 0), "the device is not current in this thread"

    def create_stream(self) -> HostStream:
        self._check_active()
        return HostStream()

    def transfer_stream(self) -> HostStream:
        return self._transfer

    def allocate(self, nbytes: int, stream: Any) -> HostMemory:
        self._check_active()
        while self.unreleased:
            array, freed_on = self.unreleased.pop()
            freed_on.wait(self._transfer.record())
            self.free(array, freed_on)
        if self.live + nbytes > self.limit:
            raise DeviceMemoryError(f"memory ran out while allocating {nbytes} bytes")
        self.live += nbytes
        return HostMemory(self, nbytes, stream)

    def free(self, array: Any, stream: HostStream) -> None:
        self.live -= array.nbytes
        stream.push(lambda: array.fill(POISON))

    def allocate_host(self, nbytes: int) -> HostMemory:
        self._check_active()
        self.locked.append(nbytes)
        self.live += nbytes
        return HostMemory(self, nbytes, None)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._check_active()
        stream.push(lambda: ctypes.memmove(target, source, nbytes))

    def capture(self, work: Callable[[int], bool]) -> HostGraph | None:
        self._check_active()
        stream = HostStream()
        stream.recording = []
        recorded = work(stream.handle)
        if self.reject_capture:
            raise BackendError("the CUDA driver failed while recording a CUDA graph (unsupported)")
        graph = HostGraph(stream.recording)
        if not recorded:
            return None
        self.graphs.append(graph)
        return graph

    def make_wait(self, handle: int, event: Any) -> None:
        self._check_active()
        self.foreign_waits.append(handle)
        if handle in STREAMS:
            STREAMS[handle].wait(event)

    def capsule(self, memory: Any, shape: tuple[int, ...], dtype: Any, max_version: Any) -> object:
        self._check_active()
        block = (ctypes.c_uint8 * memory.nbytes).from_address(memory.address)
        block.owner = memory  # what the capsule owns
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape).__dlpack__(max_version=max_version)


class Producer:
    """An array of another library on the GPU `index`, still being written on that library's own stream."""

    def __init__(self, values: np.ndarray[Any, Any], index: int = 0, kind: int = 2) -> None:
        pytest.importorskip("cuda.core", reason="DLPack capsules are read by cuda-core")
        self.array = _owned(values.shape, values.dtype)
        self.stream = HostStream()
        self.asked: list[dict[str, Any]] = []
        self._device = (kind, index)
        pointer, data = self.array.ctypes.data, np.ascontiguousarray(values)
        self.stream.push(lambda: ctypes.memmove(pointer, data.ctypes.data, data.nbytes))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **options: Any) -> object:
        self.asked.append(options)
        STREAMS[options["stream"]].wait(self.stream.record())
        return self.array.__dlpack__(max_version=options.get("max_version"))


class _Poisoner:
    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __del__(self) -> None:
        self._storage.fill(POISON)


def _owned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array whose memory is overwritten at once when nobody has it any more: an allocator that reuses it."""
    storage = np.full(max(1, int(np.prod(shape)) * dtype.itemsize), POISON, np.uint8)
    _mapped.append(storage)
    block = (ctypes.c_uint8 * (int(np.prod(shape)) * dtype.itemsize)).from_address(storage.ctypes.data)
    block.owner = _Poisoner(storage)  # type: ignore[attr-defined] # goes with the block
    return np.ctypeslib.as_array(block).view(dtype).reshape(shape)


class Consumer:
    """Takes an array as torch.from_dlpack does, to read it later on a stream of its own."""

    def __init__(self, array: Any) -> None:
        self.stream = HostStream()
        capsule = array.__dlpack__(stream=self.stream.handle, max_version=(1, 0))
        self._taken: Any = np.from_dlpack(_Capsule(capsule))

    def read_later(self) -> list[Any]:
        """A list that gets the values when the stream runs."""
        out: list[Any] = []
        pointer, shape, dtype = self._taken.ctypes.data, self._taken.shape, self._taken.dtype

        def read() -> None:
            block = (ctypes.c_uint8 * int(np.prod(shape) * dtype.itemsize)).from_address(pointer)
            out.append(np.ctypeslib.as_array(block).view(dtype).reshape(shape).copy())

        self.stream.push(read)
        return out

    def drop(self) -> None:
        self._taken = None


class _Capsule:
    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)
