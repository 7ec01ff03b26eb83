"""Page-locked host memory, kept for reuse: to lock pages takes longer than to copy an image."""

from __future__ import annotations

import contextlib
import threading

from ...errors import CodaError
from .layer import DeviceLayer, Event, HostMemory

_SMALLEST = 1 << 16
_KEPT_FREE = 128 << 20  # bytes: images in and out of four executors, in batches of 64 at 256x256


class StagingPool:
    """Buffers of one device, in sizes of powers of two. Safe to call from many threads, inside `layer.active()`.

    Of the free ones `kept` bytes stay for reuse, the last used first, and one of any size.
    """

    def __init__(self, layer: DeviceLayer, kept: int = _KEPT_FREE) -> None:
        self._layer = layer
        self._kept = kept
        self._lock = threading.Lock()
        self._free: list[HostMemory] = []  # the last used at the end
        self._busy: list[tuple[Event, HostMemory]] = []

    def take(self, nbytes: int) -> HostMemory:
        """Return a buffer of at least `nbytes` that nothing uses. Raises DeviceMemoryError, BackendError."""
        size = max(_SMALLEST, 1 << (nbytes - 1).bit_length()) if nbytes else _SMALLEST
        with self._lock:
            self._collect()
            fitting = [i for i, buffer in enumerate(self._free) if buffer.array.nbytes == size]
            found = self._free.pop(fitting[-1]) if fitting else None
            surplus = self._surplus()
        surplus.clear()
        return found or self._layer.allocate_host(size)

    def give(self, buffer: HostMemory, event: Event | None = None) -> None:
        """Put a buffer back; where an event is given, the device uses it until then."""
        with self._lock:
            if event is not None:
                self._busy.append((event, buffer))
            else:
                self._free.append(buffer)
            surplus = self._surplus()
        surplus.clear()

    def __del__(self) -> None:
        """Wait for copies that are still queued: their pages are about to be unlocked."""
        if self._busy and not self._layer.is_gone():
            with contextlib.suppress(CodaError), self._layer.active():
                for event, _ in self._busy:
                    event.sync()

    def _collect(self) -> None:
        busy, self._busy = self._busy, []
        for event, buffer in busy:
            if event.is_done():
                self._free.append(buffer)
            else:
                self._busy.append((event, buffer))

    def _surplus(self) -> list[HostMemory]:
        """Take out what is too much, to be let go of without the lock: unlocking pages may wait for the device."""
        surplus = []
        size = sum(buffer.array.nbytes for buffer in self._free)
        while size > self._kept and len(self._free) > 1:
            surplus.append(self._free.pop(0))
            size -= surplus[-1].array.nbytes
        return surplus
