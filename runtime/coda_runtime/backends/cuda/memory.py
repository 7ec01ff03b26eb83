"""Memory of the GPU and of the host, freed when its last owner goes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cuda.core import Buffer, MemoryResource, Stream
from cuda.core.graph import GraphBuilder
from cuda.core.typing import DevicePointerType

from . import layer
from .streams import CudaEvent, CudaStream


class Place(Protocol):
    """The device that memory is of, as far as freeing it goes; `CudaDevice` says what each does."""

    def free_host(self, address: int) -> None:
        """Free page-locked memory."""
        ...

    def release(
        self, buffer: Buffer, stream: CudaStream, readers: list[CudaEvent], consumers: Collection[int | None]
    ) -> None:
        """Free a buffer after all that uses it."""
        ...


class CudaMemory:
    """See layer.Memory."""

    def __init__(self, device: Place, buffer: Buffer, nbytes: int, stream: CudaStream) -> None:
        self.nbytes = nbytes
        self.stream = stream
        self._device = device
        self._buffer = buffer
        self._lock = threading.Lock()
        self._readers: list[CudaEvent] = []
        self._consumers: set[int | None] = set()

    @property
    def address(self) -> int:
        """See layer.Memory."""
        return int(self._buffer.handle)

    def used_until(self, event: layer.Event) -> None:
        """See layer.Memory."""
        assert isinstance(event, CudaEvent)  # noqa: S101 - for the type checker: a layer's parts go together
        with self._lock:
            # An array that is read again and again must not collect events.
            self._readers = [reader for reader in self._readers if not reader.is_done()]
            self._readers.append(event)

    def handed_out(self, stream: int | None) -> None:
        """See layer.Memory."""
        self._consumers.add(stream)

    def __del__(self) -> None:
        self._device.release(self._buffer, self.stream, self._readers, self._consumers)


class CudaHostMemory:
    """See layer.HostMemory."""

    def __init__(self, device: Place, address: int, nbytes: int) -> None:
        self._device = device
        self.address = address
        self.array: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    def __del__(self) -> None:
        self._device.free_host(self.address)


class Owner(MemoryResource):  # type: ignore[misc] # Any to mypy where cuda-core's stubs are not found
    """Ties a block to the arrays that others make of it: cuda.core "deallocates" when the last of them goes."""

    def __init__(self, memory: layer.Memory, index: int) -> None:
        self._memory: layer.Memory | None = memory
        self._index = index

    def allocate(self, size: int, *, stream: Stream | GraphBuilder) -> Buffer:
        """Refuse: it is never called."""
        raise NotImplementedError

    def deallocate(self, ptr: DevicePointerType, size: int, *, stream: Stream | GraphBuilder) -> None:
        """Let go of the block, which frees it if nobody else has it."""
        self._memory = None

    @property
    def is_device_accessible(self) -> bool:
        """It is memory of the GPU."""
        return True

    @property
    def is_host_accessible(self) -> bool:
        """It is not memory of the host."""
        return False

    @property
    def is_managed(self) -> bool:
        """It is not managed memory."""
        return False

    @property
    def device_id(self) -> int:
        """N of "cuda:N"."""
        return self._index
