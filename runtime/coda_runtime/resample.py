"""The bicubic upsampling of the scales as constant matrices: a scale y [s, s] becomes U y U^T [h, h]."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

_A = -0.75  # PyTorch's bicubic; many libraries take -0.5


@cache
def upsample_matrix(size: int, side: int) -> npt.NDArray[np.float32]:
    """U, float32 [size, side], read-only: PyTorch's bicubic from `side` to `size` points along one axis.

    align_corners False, a = -0.75, no antialias, the border value repeated outside.
    """
    matrix = np.zeros((size, side), dtype=np.float64)
    rows = np.arange(size)
    position = (rows + 0.5) * (side / size) - 0.5
    left = np.floor(position).astype(np.int64)
    for offset in (-1, 0, 1, 2):
        weight = _kernel(np.abs(position - (left + offset)))
        np.add.at(matrix, (rows, np.clip(left + offset, 0, side - 1)), weight)
    out = matrix.astype(np.float32)
    out.flags.writeable = False
    return out


def _kernel(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
