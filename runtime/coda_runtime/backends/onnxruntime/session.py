"""Sessions of onnxruntime: by host arrays, and by arrays that stay where the provider runs."""

from __future__ import annotations

import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ArtifactError, BackendError, CodaError, DeviceError, InputError
from ...format.profiles import Batch
from ...machine.devices import current_cuda_device
from ..base import DeviceArray
from .library import SILENT, cause, run_error
from .placement import placed

# kDLCPU and kDLCUDA of dlpack.h, under onnxruntime's names for them.
_DLPACK = {"cpu": 1, "cuda": 2}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


class OrtSession:
    """One `InferenceSession`, with one input and one output. `run` may be called from many threads at once."""

    batch: Batch | None = None  # any goes

    def __init__(self, ort: Any, session: Any, device: str) -> None:
        self.device = device
        self._ort = ort
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._output: str = session.get_outputs()[0].name
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = SILENT

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its output, a new array.

        Raises BackendError, DeviceMemoryError where a smaller batch might do, and ArtifactError for what is no tensor.
        """
        try:
            result = self._session.run([self._output], {self._input: batch}, self._quiet)[0]
        except Exception as error:  # onnxruntime's errors have no common base, and plain RuntimeErrors come too
            raise run_error(error, f"{batch.dtype} {list(batch.shape)}", self.device) from error
        if not isinstance(result, np.ndarray):
            raise ArtifactError(
                f"the graph returned a {type(result).__name__}, expected a tensor; export the bundle again"
            )
        return result

    def nodes(self) -> dict[str, int]:
        """Return how many nodes of the graph each provider runs; empty where this onnxruntime does not tell.

        It is told of providers beside the CPU's alone.
        """
        return dict(Counter(node.provider for node in placed(self._session) or ()))

    def close(self) -> None:
        """Drop the session, which frees its memory."""
        self._session = None


class OrtRowsSession(OrtSession):
    """A session of one thread, which computes the rows of a batch side by side, on `threads` of them."""

    def __init__(self, ort: Any, session: Any, device: str, threads: int) -> None:
        super().__init__(ort, session, device)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "coda-rows")

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Do as the other does."""
        if min(self._threads, len(batch)) < 2:
            return super().run(batch)
        parts = np.array_split(batch, min(self._threads, len(batch)))
        return np.concatenate(list(self._pool.map(super().run, parts)))

    def close(self) -> None:
        """Drop the session and its threads."""
        self._pool.shutdown()
        super().close()


class OrtDeviceSession(OrtSession):
    """A session whose input and output may lie in the memory of its device (CUDA).

    `memory` is that device as onnxruntime names it, ("cuda", N). With ("cpu", 0) the same code runs on the CPU.
    """

    def __init__(self, ort: Any, session: Any, device: str, memory: tuple[str, int]) -> None:
        super().__init__(ort, session, device)
        self._memory = memory
        self._dlpack_device = (_DLPACK[memory[0]], memory[1])
        kind: str = session.get_inputs()[0].type
        self._input_dtype = np.dtype(_DTYPES[kind]).name if kind in _DTYPES else kind

    def put(self, batch: npt.NDArray[Any]) -> OrtArray:
        """Copy an array to the device; the copy is complete on return. Raises as `run` does."""
        try:
            return OrtArray(self._value(batch), self.device)
        except Exception as error:  # see run
            raise run_error(error, f"{batch.dtype} {list(batch.shape)}", self.device) from error

    def run_on_device(self, batch: npt.NDArray[Any] | DeviceArray) -> OrtArray:
        """Do as `run` does, with an output that stays on the device. A `batch` that is there is read without a copy.

        The output is complete on return: onnxruntime waits for its own stream. `batch` may be numpy's or anything
        with `__dlpack__`, C-contiguous. Raises as `run` does.
        """
        try:
            value = self._value(batch)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(self._input, value)
            binding.bind_output(self._output, *self._memory)
            # What made `batch` ran on a stream that the provider's own does not wait for.
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding, self._quiet)
            result = binding.get_outputs()[0]
        except CodaError:
            raise
        except Exception as error:  # see run
            raise run_error(error, f"{batch.dtype} {list(batch.shape)}", self.device) from error
        found = tuple(result.__dlpack_device__())
        if found != self._dlpack_device:  # onnxruntime binds to a device that it has no provider for, and says nothing
            raise BackendError(
                f"onnxruntime left the output on {result.device_name()}, expected {self.device}; see `coda doctor`"
            )
        return OrtArray(result, self.device)

    def take(self, array: Any) -> OrtArray:
        """Take an array of any library that speaks DLPack, on this session's device, without a copy.

        Raises DeviceError for an array on another device; InputError for one that is not C-contiguous, that its
        library does not give, or of another dtype than float32, float16, int32, int64 and uint8.
        """
        found = tuple(array.__dlpack_device__())
        if found != self._dlpack_device:
            raise DeviceError(
                f"the array lies on device {found} of DLPack, and the session runs on {self.device}, "
                f"{self._dlpack_device}; move it there first, or pass a numpy array"
            )
        # 1 is CUDA's legacy default stream, the one that synchronize_inputs waits for.
        on_gpu = self._memory[0] == "cuda"
        try:
            # torch gives no tensor of a GPU that is not the current one.
            with current_cuda_device(self._memory[1]) if on_gpu else contextlib.nullcontext():
                capsule = array.__dlpack__(stream=1 if on_gpu else None)
        except (RuntimeError, BufferError, TypeError, ValueError) as error:
            raise InputError(
                f"the {type(array).__name__} does not give its memory by DLPack ({cause(error)}); "
                "pass a plain array, C-contiguous and without gradients"
            ) from error
        try:
            value = self._ort.OrtValue.from_dlpack(capsule)
        except (RuntimeError, BufferError, TypeError) as error:
            raise InputError(
                f"onnxruntime cannot take the array of {getattr(array, 'dtype', 'unknown dtype')} by DLPack "
                f"({cause(error)}); pass a C-contiguous, writable one of {self._input_dtype}"
            ) from error
        if value.data_type() not in _DTYPES:
            raise InputError(
                f"the array is a {value.data_type()}, which no part of a bundle takes; pass one of {self._input_dtype}"
            )
        return OrtArray(value, self.device)

    def _value(self, batch: npt.NDArray[Any] | DeviceArray) -> Any:
        """Return the batch as an OrtValue on the device."""
        if isinstance(batch, OrtArray) and batch.__dlpack_device__() == self._dlpack_device:
            return batch.value
        if not isinstance(batch, np.ndarray):
            if tuple(batch.__dlpack_device__()) == self._dlpack_device:
                return self.take(batch).value
            batch = batch.numpy()
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(batch), *self._memory)


class OrtArray:
    """An output of `OrtDeviceSession.run_on_device`, in the memory of its device. It outlives the session."""

    def __init__(self, value: Any, device: str) -> None:
        self.value = value
        """The `onnxruntime.OrtValue`."""
        self._device = device

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy's."""
        return tuple(self.value.shape())

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy's. Raises BackendError for an output that no part of a bundle has."""
        kind = self.value.data_type()
        if kind not in _DTYPES:
            raise BackendError(f"the output is a {kind}; expected one of {', '.join(_DTYPES)}; export the bundle again")
        return np.dtype(_DTYPES[kind])

    @property
    def device(self) -> str:
        """Where it lies: the session's device, "cuda:N"."""
        return self._device

    def numpy(self) -> npt.NDArray[Any]:
        """Return a copy in host memory."""
        # On the CPU onnxruntime's own numpy() is a view of the value.
        return np.array(self.value.numpy(), copy=True)

    def wait(self) -> None:
        """Return at once: onnxruntime waited for the data before it made the array."""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule that shares the memory. Nothing waits on `stream`: the data is complete.

        Raises BufferError for a copy or another device, which onnxruntime does not make.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(f"an array on {self.device} is shared as it is; take a copy with numpy()")
        return self.value.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, N) for the GPU N."""
        kind, index = self.value.__dlpack_device__()
        return int(kind), int(index)
