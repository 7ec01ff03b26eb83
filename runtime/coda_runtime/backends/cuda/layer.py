"""What a session needs of a GPU: memory, one kind of copy, streams, events, graphs.

`device.CudaDevice` is it; tests run it, and all above it, on a stand-in for the driver.
Every method raises DeviceMemoryError where memory runs out and BackendError for other errors of the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Event(Protocol):
    """A moment in the work of a stream."""

    def is_done(self) -> bool:
        """Return True once all work before it is done."""
        ...

    def sync(self) -> None:
        """Let the host wait for it."""
        ...


class Stream(Protocol):
    """A queue of work on the device."""

    @property
    def handle(self) -> int:
        """The address of the CUstream."""
        ...

    def record(self) -> Event:
        """Return an event for the moment at which all work queued so far is done."""
        ...

    def wait(self, event: Event) -> None:
        """Let all later work wait for the event."""
        ...

    def sync(self) -> None:
        """Let the host wait for all work queued so far."""
        ...


class Memory(Protocol):
    """A block of device memory, freed when its last owner goes: in the order of the stream that it was allocated on."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def used_until(self, event: Event) -> None:
        """Keep it until `event`, since somebody on another stream reads it: it is freed after that."""
        ...

    def handed_out(self, stream: int | None) -> None:
        """Note that others read it on the stream of that address, None if not said; `CudaArray` says when it is freed.

        A stream that was named must live as long as they have the memory.
        """
        ...


class HostMemory(Protocol):
    """Page-locked host memory, which the device copies from and to without the host waiting."""

    @property
    def address(self) -> int: ...

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """All its bytes, [nbytes]."""
        ...


class Graph(Protocol):
    """Recorded work, started as one."""

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        ...


class DeviceLayer(Protocol):
    """One GPU. All methods but `active` and `is_gone` are called inside `with layer.active()`."""

    @property
    def index(self) -> int:
        """N of "cuda:N"."""
        ...

    def is_gone(self) -> bool:
        """Return whether the driver is gone, with all memory: as Python ends, and in a child that was forked."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """Make it this thread's device, and put back what was before."""
        ...

    def create_stream(self) -> Stream:
        """Return a stream that does not wait for the default stream."""
        ...

    def transfer_stream(self) -> Stream:
        """Return the stream on which arrays are copied to the host; it lives as long as the layer."""
        ...

    def allocate(self, nbytes: int, stream: Stream) -> Memory:
        """Return device memory, 256-byte aligned, to be used in the order of `stream`."""
        ...

    def allocate_host(self, nbytes: int) -> HostMemory:
        """Return page-locked host memory."""
        ...

    def trim(self) -> None:
        """Give memory that was freed back to the driver, for others: for what is still queued it is too early."""
        ...

    def copy(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Queue a copy between addresses of page-locked or device memory."""
        ...

    def capture(self, work: Callable[[int], bool]) -> Graph | None:
        """Record what `work` queues on the stream whose handle it is given, running none of it; None if it says no.

        That stream is used for nothing else, so that a recording that fails spoils no other work. Raises BackendError
        where it cannot be recorded.
        """
        ...

    def make_wait(self, handle: int, event: Event) -> None:
        """Let a stream of somebody else (1: the legacy default stream, 2: the per-thread one) wait for `event`.

        Where a graph is being recorded from it, the host waits.
        """
        ...

    def capsule(
        self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any], max_version: tuple[int, int] | None
    ) -> object:
        """Return a DLPack capsule that owns `memory`."""
        ...
