"""Another library on the same GPU, as torch is: arrays that are handed to ours and taken from ours by DLPack.

It calls the driver itself, and reads and writes capsules byte by byte as dlpack.h has them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .controls import POISON, at, loaded

CUDA = 2
_CODES = {"i": 0, "u": 1, "f": 2}
_KINDS = {(code, bits): np.dtype(f"{kind}{bits // 8}") for kind, code in _CODES.items() for bits in (8, 16, 32, 64)
          if (kind, bits) != ("f", 8)}  # fmt: skip


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("index", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )  # fmt: skip


class _Old(ctypes.Structure):
    """DLManagedTensor, from before DLPack 1.0."""


class _New(ctypes.Structure):
    """DLManagedTensorVersioned."""


_OLD_DELETER, _NEW_DELETER = (ctypes.CFUNCTYPE(None, ctypes.POINTER(kind)) for kind in (_Old, _New))
_Old._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _OLD_DELETER))
_New._fields_ = (
    ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p), ("deleter", _NEW_DELETER),
    ("flags", ctypes.c_uint64), ("tensor", _Tensor),
)  # fmt: skip

_api = ctypes.pythonapi
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _api)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
_NAMES = {_Old: b"dltensor", _New: b"dltensor_versioned"}
_kept: list[Any] = []  # what capsules refer to: a deleter must not free itself


def _check(result: int) -> None:
    assert result == 0, f"the driver answered {result}"


class current_device:  # noqa: N801 - used as a function
    """Makes a device's context the current one."""

    def __init__(self, index: int) -> None:
        self._library, self._index = loaded().library, index

    def __enter__(self) -> None:
        context = ctypes.c_void_p()
        _check(self._library.cuInit(0))
        _check(self._library.cuDevicePrimaryCtxRetain(ctypes.byref(context), self._index))
        _check(self._library.cuCtxPushCurrent_v2(context))

    def __exit__(self, *_: object) -> None:
        _check(self._library.cuCtxPopCurrent_v2(None))
        _check(self._library.cuDevicePrimaryCtxRelease_v2(self._index))


class Stream:
    """A stream of the other library; it does not wait for the default stream, unless `blocking`."""

    def __init__(self, index: int = 0, *, blocking: bool = False) -> None:
        self.index = index
        handle = ctypes.c_void_p()
        with current_device(index):
            _check(loaded().library.cuStreamCreate(ctypes.byref(handle), 0 if blocking else 1))
        self.handle = int(handle.value or 0)

    def let_wait(self, stream: int) -> None:
        """Let another stream wait for what is queued on this one."""
        library, event = loaded().library, ctypes.c_void_p()
        with current_device(self.index):
            _check(library.cuEventCreate(ctypes.byref(event), 2))
            _check(library.cuEventRecord(event, ctypes.c_void_p(self.handle)))
            _check(library.cuStreamWaitEvent(ctypes.c_void_p(stream), event, 0))
            _check(library.cuEventDestroy_v2(event))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy."""
        addresses = ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(nbytes)
        with current_device(self.index):
            _check(loaded().library.cuMemcpyAsync(*addresses, ctypes.c_void_p(self.handle)))

    def sync(self) -> None:
        """Wait for all that is queued."""
        with current_device(self.index):
            _check(loaded().library.cuStreamSynchronize(ctypes.c_void_p(self.handle)))

    def destroy(self) -> None:
        """Destroy it."""
        _check(loaded().library.cuStreamDestroy_v2(ctypes.c_void_p(self.handle)))

    def begin_capture(self, mode: int = 0) -> None:
        """Record a graph from it: as `torch.cuda.graph` does, other threads may call nothing unsafe meanwhile."""
        with current_device(self.index):
            _check(loaded().library.cuStreamBeginCapture_v2(ctypes.c_void_p(self.handle), mode))

    def end_capture(self) -> int:
        """End the recording, and return the driver's answer: 0, or what broke it off."""
        graph = ctypes.c_void_p()
        with current_device(self.index):
            return int(loaded().library.cuStreamEndCapture(ctypes.c_void_p(self.handle), ctypes.byref(graph)))


class Producer:
    """An array of the other library in device memory, still being written on that library's own stream.

    `asked` are the options of each `__dlpack__`. `life` ends once nobody has the array any more, neither this object
    nor a capsule: its memory is overwritten at once then, as by an allocator that gives it to somebody else.
    """

    def __init__(
        self, values: np.ndarray[Any, Any], index: int = 0, kind: int = CUDA, *, transposed: bool = False
    ) -> None:
        self.stream = Stream(index)
        self.asked: list[dict[str, Any]] = []
        self._device = (kind, index)
        self._transposed = transposed
        self._memory = _OtherMemory(index, values.nbytes)
        self.address, self.life = self._memory.address, self._memory.life
        self._shape, self._dtype = values.shape, values.dtype
        if values.nbytes:
            data = np.ascontiguousarray(values)
            self.stream.copy(self.address, data.ctypes.data, data.nbytes)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: int, max_version: tuple[int, int] | None = None, **options: Any) -> object:
        self.asked.append({"stream": stream, "max_version": max_version, **options})
        device = ctypes.c_int(-1)
        loaded().library.cuCtxGetDevice(ctypes.byref(device))
        if device.value != self._device[1]:  # torch's rule, and nearly its words
            raise BufferError(f"Can't export tensors on a different CUDA device. Current device: {device.value}")
        self.stream.let_wait(stream)
        kind = _New if max_version is not None and max_version[0] >= 1 else _Old
        return self._capsule(kind)

    def _capsule(self, kind: Any) -> object:
        managed = kind()
        shape = self._shape
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
        if self._transposed:
            shape, strides = shape[::-1], strides[::-1]
        lengths, steps = (ctypes.c_int64 * max(1, len(shape)))(*shape), (ctypes.c_int64 * max(1, len(shape)))(*strides)
        tensor = managed.tensor
        tensor.data, tensor.ndim = self.address, len(shape)
        tensor.device, tensor.index = self._device
        tensor.code, tensor.bits, tensor.lanes = _CODES[self._dtype.kind], 8 * self._dtype.itemsize, 1
        tensor.shape, tensor.strides = lengths, steps
        if kind is _New:
            managed.major, managed.minor = 1, 0
        held = [self._memory]
        managed.deleter = (_NEW_DELETER if kind is _New else _OLD_DELETER)(lambda _: held.clear())
        _kept.append((managed, lengths, steps))
        return _new_capsule(ctypes.addressof(managed), _NAMES[kind], None)


class Life:
    """Of memory, to look at after its owner is gone."""

    ended = False


class _OtherMemory:
    """Plain memory of the other library."""

    def __init__(self, index: int, nbytes: int) -> None:
        self._index, self.life = index, Life()
        address = ctypes.c_uint64()
        with current_device(index):
            _check(loaded().library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(max(1, nbytes))))
        self.address = address.value

    def __del__(self) -> None:
        library, relaxed = loaded().library, ctypes.c_int(2)
        # An allocator that gives memory to somebody else calls no driver, and breaks off no recording.
        library.cuThreadExchangeStreamCaptureMode(ctypes.byref(relaxed))
        with current_device(self._index):
            library.cuMemFree_v2(ctypes.c_uint64(self.address))
        library.cuThreadExchangeStreamCaptureMode(ctypes.byref(relaxed))
        self.life.ended = True


class Consumer:
    """Takes an array as `torch.from_dlpack` does, to read it on a stream of its own.

    `stream` is what it names to the producer: its own stream's address, or what else DLPack allows.
    """

    def __init__(self, array: Any, *, version: tuple[int, int] | None = (1, 0), stream: int | None = 0) -> None:
        device, index = array.__dlpack_device__()
        assert device == CUDA
        self.stream = Stream(index)
        named = self.stream.handle if stream == 0 else stream
        capsule = array.__dlpack__(stream=named, max_version=version)
        kind = _New if _is_valid(capsule, _NAMES[_New]) else _Old
        self._managed = kind.from_address(_pointer(capsule, _NAMES[kind]))
        assert _rename(capsule, b"used_" + _NAMES[kind]) == 0
        tensor = self._managed.tensor
        assert (tensor.device, tensor.index, tensor.lanes, tensor.offset) == (CUDA, index, 1, 0)
        self.versioned = kind is _New
        self.address = int(tensor.data or 0)
        self.shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
        self.dtype = _KINDS[tensor.code, tensor.bits]

    def read_later(self) -> np.ndarray[Any, Any]:
        """Return an array that gets the values when the stream runs."""
        out = np.frombuffer(bytearray([POISON]) * (int(np.prod(self.shape)) * self.dtype.itemsize), self.dtype)
        out = out.reshape(self.shape)
        address, shape, dtype = self.address, self.shape, self.dtype
        loaded().push(self.stream.handle, lambda: np.copyto(out, at(address, shape, dtype)))
        return out

    def drop(self) -> None:
        """Let go of it, as torch does: with kernels still queued."""
        managed, self._managed = self._managed, None
        managed.deleter(ctypes.byref(managed))
