"""An array in GPU memory, which others take over by DLPack without a copy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .layer import DeviceLayer, Event, Memory
from .staging import StagingPool

DLPACK_CUDA = 2
"""DLPack's number for CUDA devices."""


class CudaArray:
    """A C-contiguous array on one GPU; implements `DeviceArray`.

    `ready` is the event after its last write. The memory is freed with the last of this object and of the arrays that
    were made of it, after the work that was queued by then on the streams that consumers named in `__dlpack__`; such a
    stream must live as long as its consumer's array.

    A consumer that names none (`stream=-1`, `__cuda_array_interface__`) looks after the order itself: its array may go
    once its work is done, or is queued on the default stream, on a stream that waits for that one (a blocking stream),
    or on the interface's. By the rules of `__cuda_array_interface__` this object must stay until then, too.
    """

    def __init__(
        self,
        layer: DeviceLayer,
        staging: StagingPool,
        memory: Memory,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        ready: Event,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.memory = memory
        self.ready = ready
        self._layer = layer
        self._staging = staging

    @property
    def device(self) -> str:
        """Where it lies: "cuda:N"."""
        return f"cuda:{self._layer.index}"

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> npt.NDArray[Any]:
        """Return a copy in host memory, complete when this returns. Raises DeviceMemoryError, BackendError."""
        with self._layer.active():
            stream = self._layer.transfer_stream()
            buffer = self._staging.take(self.nbytes)
            stream.wait(self.ready)
            self._layer.copy(buffer.address, self.memory.address, self.nbytes, stream)
            # The stream is shared: other arrays' copies may be queued behind this one.
            stream.record().sync()
            out = buffer.array[: self.nbytes].view(self.dtype).reshape(self.shape).copy()
            self._staging.give(buffer)
            return out

    def wait(self) -> None:
        """Let the host wait until the data is there. Raises BackendError."""
        with self._layer.active():
            self.ready.sync()

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule; work on `stream` waits until the data is there.

        Args:
            stream: the consumer's stream: its address, 1 or None for the legacy default stream, 2 for the per-thread
                default stream, -1 for a consumer that looks after the order itself.
            max_version: the newest DLPack version the consumer reads; None means one before 1.0.
            dl_device: where the consumer wants it; only where it lies, or None.
            copy: True is refused: the consumer may copy.

        Raises:
            BufferError: what was asked for would take a copy.
            ValueError: a `stream` that is no stream.
        """
        if dl_device is not None and (int(dl_device[0]), int(dl_device[1])) != self.__dlpack_device__():
            raise BufferError(f"the array lies on {self.device}, and dl_device is {tuple(dl_device)}; take .numpy()")
        if copy:
            raise BufferError("copy=True is not supported; take the array without a copy and copy it")
        handle = 1 if stream is None else int(stream)
        if handle == 0 or handle < -1:
            raise ValueError(f"stream is {stream!r}; DLPack takes an address, 1, 2, -1 or None with CUDA, and not 0")
        with self._layer.active():
            if handle != -1:
                self._layer.make_wait(handle, self.ready)
            self.memory.handed_out(None if handle == -1 else handle)
            return self._layer.capsule(self.memory, self.shape, self.dtype, max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, N) for the GPU N."""
        return DLPACK_CUDA, self._layer.index

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. Its `stream` has waited for the data, so that a consumer that waits for it has, too."""
        with self._layer.active():
            stream = self._layer.transfer_stream()
            stream.wait(self.ready)
            self.memory.handed_out(None)
            return {
                "version": 3,
                "shape": self.shape,
                "typestr": self.dtype.str,
                "data": (self.memory.address, False),
                "strides": None,
                "stream": stream.handle,
            }

    def __repr__(self) -> str:
        return f"<CudaArray {self.dtype} {list(self.shape)} on {self.device}>"
