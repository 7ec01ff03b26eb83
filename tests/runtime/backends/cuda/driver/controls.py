"""The stand-in as a test steers it and looks at it, inside the process that runs on it."""

from __future__ import annotations

import ctypes
import functools
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

POISON = 0xEE
"""What every byte of memory is before it is written, and again once it was freed."""

LEGACY, PER_THREAD = 1, 2
ERRORS = {
    "CUDA_ERROR_OUT_OF_MEMORY": 2,
    "CUDA_ERROR_NO_DEVICE": 100,
    "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
}

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_KERNELS = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p)


class Driver:
    """The whole of it. Of this process there is one: see `loaded`."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.standin_breaches.restype = ctypes.c_char_p
        for name in ("pooled", "reserved", "locked", "lock"):
            getattr(self.library, f"standin_{name}").restype = ctypes.c_size_t
        self._callbacks: list[Any] = []
        self._work: dict[str, Callable[[int], None]] = {}
        self.failures: list[str] = []
        """Tracebacks of Python that the stand-in called."""
        self._kernels = _KERNELS(self._kernel)
        self.library.standin_kernels(self._kernels)

    def clear(self) -> None:
        """Forget breaches, calls and errors that were asked for, and let nothing run before somebody waits."""
        self.library.standin_clear()
        self.library.standin_chance(ctypes.c_uint64(0))
        self.failures.clear()
        for index in range(2):
            self.library.standin_limit(index, ctypes.c_size_t(1 << 30))

    def breaches(self) -> list[str]:
        """Return what was done that CUDA forbids, and forget it."""
        found = self.library.standin_breaches().decode().splitlines()
        self.library.standin_clear()
        return list(found)

    def fail(self, function: str, error: str, times: int = 1) -> None:
        """Let the next calls of a function of the driver, such as "cuMemcpyAsync", answer with an error."""
        self.library.standin_fail(function.encode(), ERRORS[error], times)

    def called(self, function: str) -> int:
        """Count the calls of a function since the test began."""
        return int(self.library.standin_called(function.encode()))

    def chance(self, seed: int) -> None:
        """Run queued work before anybody waits, in an order of streams that `seed` draws; 0 for none."""
        self.library.standin_chance(ctypes.c_uint64(seed))

    def push(self, stream: int, work: Callable[[], object]) -> None:
        """Queue Python on a stream; where that is captured, each launch of its graph runs it."""

        def call(_: int | None) -> None:
            self._guarded(work)

        callback = _HOST_FUNCTION(call)
        self._callbacks.append(callback)  # a graph may run it at any later time
        result = self.library.cuLaunchHostFunc(ctypes.c_void_p(stream), callback, None)
        assert result == 0, f"cuLaunchHostFunc answered {result}"

    def add_kernels(self, work: Mapping[str, Callable[[int], None]]) -> None:
        """Let these do what kernels of these names do; each gets the address of the kernel's arguments."""
        self._work.update(work)

    def sync(self, stream: int) -> None:
        """Wait for a stream, of the current device where it is a default one."""
        assert self.library.cuStreamSynchronize(ctypes.c_void_p(stream)) == 0

    def finish(self, index: int = 0) -> None:
        """Run all that is queued on a device, in the order of its streams and events."""
        self.library.standin_finish(index)

    def is_capturing(self, stream: int) -> bool:
        """Return whether a graph is recorded from a stream."""
        status = ctypes.c_int(0)
        assert self.library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status)) == 0
        return status.value != 0

    def is_stream(self, handle: int) -> bool:
        """Return whether there is a stream of this handle."""
        return int(self.library.standin_pending(ctypes.c_void_p(handle))) >= 0

    def _kernel(self, name: bytes, arguments: int, grid: int, _: int | None) -> None:
        self._guarded(lambda: self._work[name.decode()](arguments))

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException:  # the driver takes none: the test fails at its end
            self.failures.append(traceback.format_exc())


class Watch:
    """What happens on one device from here on."""

    def __init__(self, driver: Driver, index: int = 0) -> None:
        self._library = driver.library
        self.index = index
        self._graphs = self._library.standin_graphs(index, None, 0)
        self._locks = self._library.standin_locks()

    @property
    def pooled(self) -> int:
        """Bytes of device memory that are allocated and not yet freed."""
        return int(self._library.standin_pooled(self.index))

    @property
    def reserved(self) -> int:
        """Bytes that the device's pool keeps from others: what is in use, and what was."""
        return int(self._library.standin_reserved(self.index))

    @property
    def locked(self) -> int:
        """Bytes of host memory that are locked now."""
        return int(self._library.standin_locked(self.index))

    @property
    def locks(self) -> list[int]:
        """Sizes of all host memory that was locked since."""
        end = int(self._library.standin_locks())
        return [int(self._library.standin_lock(number)) for number in range(self._locks, end)]

    def limit(self, nbytes: int) -> None:
        """Let the device have no more memory than this."""
        self._library.standin_limit(self.index, ctypes.c_size_t(nbytes))

    def leave(self, nbytes: int = 0) -> None:
        """Let the device have no more memory than what is allocated now, and `nbytes`."""
        self.limit(self.pooled + nbytes)

    @property
    def graphs(self) -> list[int]:
        """How often each graph was launched that was made since, in the order in which they were made."""
        launches = (ctypes.c_int * 4096)()
        count = self._library.standin_graphs(self.index, launches, len(launches))
        return list(launches[self._graphs : count])


def at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return the memory at an address as an array, as it is now: nothing is waited for."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)).view(dtype).reshape(shape)


@functools.cache
def loaded() -> Driver:
    """Return this process's stand-in."""
    return Driver()
