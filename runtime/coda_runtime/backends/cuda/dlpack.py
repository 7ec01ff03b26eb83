"""Arrays of others, read where they lie on the GPU."""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

import numpy as np

from ...errors import DeviceError, InputError, one_line
from .array import DLPACK_CUDA, CudaArray
from .layer import DeviceLayer, Event, Stream
from .staging import StagingPool

_MEMORY_KINDS = {1: "the CPU", 3: "page-locked host memory", 10: "a ROCm GPU", 13: "managed memory"}


class Kept:
    """Owners of memory that the GPU still reads though nobody else holds them.

    A session collects at each of its calls: the last array that it borrowed is held until the next, or its `close`.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[list[Event], object]] = deque()

    def add(self, readers: list[Event], owner: object) -> None:
        """Keep `owner` until all `readers` have passed. Takes no lock: it is called while objects go."""
        self._kept.append((readers, owner))

    def collect(self) -> None:
        """Let go of those whose readers have passed."""
        for _ in range(len(self._kept)):
            try:
                readers, owner = self._kept.popleft()
            except IndexError:  # another thread took it
                return
            left = [event for event in readers if not event.is_done()]
            if left:
                self._kept.append((left, owner))


class BorrowedMemory:
    """Memory of somebody else; implements `Memory`. Its owner stays until the last known reader has passed."""

    def __init__(self, address: int, nbytes: int, owner: object, kept: Kept) -> None:
        self.address = address
        self.nbytes = nbytes
        self._owner = owner
        self._kept = kept
        self._readers: list[Event] = []

    def used_until(self, event: Event) -> None:
        """See layer.Memory."""
        self._readers.append(event)

    def handed_out(self, stream: int | None) -> None:
        """See layer.Memory. Whom it is handed on to, its owner cannot know: the receiver must look after that."""

    def __del__(self) -> None:
        if self._readers:
            self._kept.add(self._readers, self._owner)


def borrow(array: object, layer: DeviceLayer, stream: Stream, staging: StagingPool, kept: Kept) -> CudaArray:
    """Return an array on the layer's GPU, without a copy; its producer's work is ordered before later work on `stream`.

    Takes any object with `__dlpack__` and `__dlpack_device__`, such as a `torch.Tensor`. Called inside
    `layer.active()`.

    Raises DeviceError for an array on another device, InputError for another kind of object, a layout that is not
    C-contiguous, and a dtype that numpy does not have.
    """
    ask = getattr(array, "__dlpack_device__", None)
    if ask is None or not hasattr(array, "__dlpack__"):
        raise InputError(
            f"got a {type(array).__name__}; expected a numpy array, or an array on the GPU with __dlpack__"
        )
    _check_device(ask(), layer.index)
    if isinstance(array, CudaArray):
        return array
    views: Any = importlib.import_module("cuda.core.utils").StridedMemoryView
    try:
        view = views.from_dlpack(_Protocol(array), stream_ptr=stream.handle)
        dtype = np.dtype(view.dtype)
    except (BufferError, NotImplementedError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the {type(array).__name__} does not give its memory by DLPack ({one_line(error)}); "
            "pass a plain array, without gradients, of one of numpy's dtypes"
        ) from error
    shape = tuple(view.shape)
    if not _is_contiguous(shape, view.strides):
        raise InputError(
            f"the array {list(shape)} is strided ({list(view.strides)}); expected C order, as x.contiguous() gives"
        )
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = BorrowedMemory(int(view.ptr), nbytes, view, kept)
    return CudaArray(layer, staging, memory, shape, dtype, stream.record())


class _Protocol:
    """Shows only DLPack's Python protocol: cuda.core has a short cut for tensors, through torch's private layout."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def _check_device(found: tuple[Any, int], index: int) -> None:
    kind, number = int(found[0]), int(found[1])
    if (kind, number) == (DLPACK_CUDA, index):
        return
    location = f"cuda:{number}" if kind == DLPACK_CUDA else _MEMORY_KINDS.get(kind, f"a device of DLPack's kind {kind}")
    raise DeviceError(
        f"the array lies on {location}, and this part runs on cuda:{index}; move it there, or pass a numpy array"
    )


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    if strides is None or 0 in shape:
        return True
    expected = 1
    for side, step in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and step != expected:
            return False
        expected *= side
    return True
