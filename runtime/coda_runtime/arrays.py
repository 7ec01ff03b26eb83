"""Arrays of other libraries: where they lie, and numpy's view of those in host memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, one_line

_CPU_DEVICES = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost, which is pinned host memory
_CUDA = 2
_NO_DEVICE = -1


def on_gpu(value: object) -> bool:
    """Return True for an array that says by DLPack that it is on a CUDA device."""
    return not isinstance(value, np.ndarray) and _device(value) == _CUDA


def host_view(value: Any, name: str) -> Any:
    """Return a numpy array for an array in host memory of any library that speaks DLPack; anything else as it is.

    Nothing is copied. Raises InputError for what numpy cannot see, such as bfloat16, and for arrays on a device that
    is neither the host nor a CUDA GPU.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return value
    device = _device(value)
    if device not in (*_CPU_DEVICES, _CUDA):
        raise InputError(f"{name} is on a device that is neither the host nor a CUDA GPU; copy it to the host first")
    try:
        out: npt.NDArray[Any] = np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be read as a numpy array ({one_line(error)}); pass a numpy array, for a torch "
            "tensor tensor.detach().cpu().numpy()"
        ) from error
    return out


def _device(value: Any) -> int | None:
    ask = getattr(value, "__dlpack_device__", None)
    try:
        return None if ask is None else int(ask()[0])
    except (BufferError, RuntimeError, TypeError, ValueError):  # torch's of a device that DLPack has no number for
        return _NO_DEVICE
