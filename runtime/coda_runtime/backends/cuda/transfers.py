"""What a session does on its stream beside its own work: copies in and out, and order after an error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CodaError
from .array import CudaArray
from .layer import DeviceLayer, Stream
from .staging import StagingPool

FIRST, RECORDED = "not recorded yet: its first batch runs without one", "recorded"
"""States of the CUDA graph for a batch size; where there is none it is "none: " and the reason."""


class Transfers:
    """Copies on one stream, by one thread at a time, inside `layer.active()`.

    All raise DeviceMemoryError, BackendError.
    """

    def __init__(self, layer: DeviceLayer, staging: StagingPool, stream: Stream) -> None:
        self._layer = layer
        self._staging = staging
        self._stream = stream

    def put(self, array: npt.NDArray[Any] | CudaArray, address: int) -> None:
        """Queue a copy to the device's memory at `address`. The caller may change or drop `array` at once."""
        if isinstance(array, CudaArray):
            self._stream.wait(array.ready)
            self._layer.copy(address, array.memory.address, array.nbytes, self._stream)
            array.memory.used_until(self._stream.record())
            return
        buffer = self._staging.take(array.nbytes)
        buffer.array[: array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
        self._layer.copy(address, buffer.address, array.nbytes, self._stream)
        self._staging.give(buffer, self._stream.record())

    def copy_in(self, array: npt.NDArray[Any]) -> CudaArray:
        """Queue a copy of `array`, which the caller may change or drop at once, to device memory of its own."""
        memory = self._layer.allocate(array.nbytes, self._stream)
        self.put(array, memory.address)
        return CudaArray(self._layer, self._staging, memory, array.shape, array.dtype, ready=self._stream.record())

    def fetch(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Wait for all that is queued, and return what lies at `address` as a new array."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._staging.take(nbytes)
        self._layer.copy(buffer.address, address, nbytes, self._stream)
        self._stream.sync()
        out = buffer.array[:nbytes].view(dtype).reshape(shape).copy()
        self._staging.give(buffer)
        return out

    def copy_out(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> CudaArray:
        """Queue a copy of what will lie at `address` to memory of its own."""
        nbytes = math.prod(shape) * dtype.itemsize
        memory = self._layer.allocate(nbytes, self._stream)
        self._layer.copy(memory.address, address, nbytes, self._stream)
        return CudaArray(self._layer, self._staging, memory, shape, dtype, ready=self._stream.record())

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """Make sure that after an error nothing is still running that uses the buffers of the call."""
        try:
            yield
        except BaseException:
            self.finish()
            raise

    def give_back(self) -> None:
        """Wait until what was freed is free, and give it back to the driver, so that others such as torch have it."""
        with contextlib.suppress(CodaError):  # see finish
            self._stream.sync()
            self._layer.trim()

    def finish(self) -> None:
        """Wait for all that is queued; a GPU that is lost must not keep the rest from being freed."""
        with contextlib.suppress(CodaError):
            self._stream.sync()
