"""A graph that OpenVINO has compiled, run by many threads."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import BackendError, DeviceMemoryError
from ...format.profiles import Batch
from .library import run_error


class OpenVinoSession:
    """One compiled model, with one input and one output. `run` may be called from many threads at once."""

    device = "cpu"
    batch: Batch | None = None  # any goes

    def __init__(self, openvino: Any, compile_model: Callable[[], Any]) -> None:
        """Compile by `compile_model`, now and again after a run that memory ran out in. Raises what it raises."""
        self._openvino = openvino
        self._compile = compile_model
        self._lock = threading.Lock()
        self._compiled = compile_model()

    @property
    def compiled(self) -> Any:
        """The compiled model. Raises what compiling it again raises, BackendError once it is closed."""
        with self._lock:
            if self._compiled is None:
                self._compiled = self._compile()
            return self._compiled

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its output, a new array.

        Raises BackendError, DeviceMemoryError where a smaller batch might do.
        """
        # Held until the run is over: the tensor shares its memory, and does not keep it.
        array = np.ascontiguousarray(batch)
        compiled = self.compiled
        try:
            return self._infer(compiled, array)
        except Exception as error:  # OpenVINO's are plain RuntimeErrors, and its bindings raise what they like
            told = run_error(error, f"{batch.dtype} {list(batch.shape)}")
            if isinstance(told, DeviceMemoryError):
                self._drop(compiled)
                # Nothing may hold it while the next run compiles anew, the error's frames neither.
                traceback.clear_frames(error.__traceback__)
                del compiled
            raise told from error

    def _infer(self, compiled: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # One for each call, made in microseconds: one that is kept keeps what it was given and what it gave.
        request = compiled.create_infer_request()
        # Memory that may be written is read where it is; of any other the bindings take a copy only.
        request.set_input_tensor(self._openvino.Tensor(array, shared_memory=array.flags.writeable))
        result: npt.NDArray[Any] = request.infer()[0]
        return result

    def close(self) -> None:
        """Drop the compiled model, which frees its memory."""
        self._compile, self._compiled = _closed, None

    def _drop(self, compiled: Any) -> None:
        """Let the next run compile anew: after memory ran out this one asks for as much again, whatever the batch."""
        with self._lock:
            if self._compiled is compiled:
                self._compiled = None


def _closed() -> Any:
    raise BackendError("this session is closed; load the bundle again")
