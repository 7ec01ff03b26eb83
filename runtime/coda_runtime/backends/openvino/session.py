"""A graph that OpenVINO has compiled, run by many threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...format.profiles import Batch
from .library import run_error


class OpenVinoSession:
    """One compiled model, with one input and one output. `run` may be called from many threads at once."""

    device = "cpu"
    batch: Batch | None = None  # any goes

    def __init__(self, openvino: Any, compiled: Any) -> None:
        self._openvino = openvino
        self._compiled = compiled

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph and return its output, a new array.

        Raises BackendError, DeviceMemoryError where a smaller batch might do.
        """
        # Held until the run is over: the tensor below shares its memory, and does not keep it.
        array = np.ascontiguousarray(batch)
        try:
            # One for each call, made in microseconds: one that is kept keeps what it was given and what it gave.
            request = self._compiled.create_infer_request()
            request.set_input_tensor(self._tensor(array))
            result: npt.NDArray[Any] = request.infer()[0]
        except Exception as error:  # OpenVINO's are plain RuntimeErrors, and its bindings raise what they like
            raise run_error(error, f"{batch.dtype} {list(batch.shape)}") from error
        return result

    def _tensor(self, array: npt.NDArray[Any]) -> Any:
        # Memory that may be written is read where it is; of any other the bindings take a copy only.
        return self._openvino.Tensor(array, shared_memory=array.flags.writeable)

    def close(self) -> None:
        """Drop the compiled model, which frees its memory."""
        self._compiled = None
