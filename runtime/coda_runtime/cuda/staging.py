"""Page-locked host memory, kept for reuse: to lock pages takes longer than to copy an image."""

from __future__ import annotations

import threading

from .layer import DeviceLayer, Event, HostMemory

_SMALLEST = 1 << 16
_KEPT_FREE = 8


class StagingPool:
    """Buffers of one device, in sizes of powers of two. Safe to call from many threads, inside `layer.active()`."""

    def __init__(self, layer: DeviceLayer) -> None:
        self._layer = layer
        self._lock = threading.Lock()
        self._free: list[HostMemory] = []
        self._busy: list[tuple[Event, HostMemory]] = []

    def take(self, nbytes: int) -> HostMemory:
        """A buffer of at least `nbytes` that nothing uses. Raises DeviceMemoryError, BackendError."""
        size = max(_SMALLEST, 1 << (nbytes - 1).bit_length()) if nbytes else _SMALLEST
        with self._lock:
            self._collect()
            for i, buffer in enumerate(self._free):
                if buffer.array.nbytes == size:
                    return self._free.pop(i)
        return self._layer.allocate_host(size)

    def give(self, buffer: HostMemory, event: Event | None = None) -> None:
        """Put a buffer back; where an event is given, the device uses it until then."""
        with self._lock:
            if event is not None:
                self._busy.append((event, buffer))
            else:
                self._keep(buffer)

    def _collect(self) -> None:
        busy, self._busy = self._busy, []
        for event, buffer in busy:
            if event.is_done():
                self._keep(buffer)
            else:
                self._busy.append((event, buffer))

    def _keep(self, buffer: HostMemory) -> None:
        # Beyond this the pages go back to the system: a burst of threads must not hold them for ever.
        if len(self._free) < _KEPT_FREE:
            self._free.append(buffer)
