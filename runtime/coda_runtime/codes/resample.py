"""Resampling between the scales as constants: a residual r is pooled as P r Q^T, a scale y is upsampled as U y V^T.

P and U go along the height, Q and V along the width; of squares they are the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..format.sizes import Shape

_A = -0.75  # PyTorch's bicubic; many libraries take -0.5


def pool(grid: npt.NDArray[np.float32], shape: Shape) -> npt.NDArray[np.float32]:
    """Pool float32 [..., h, w] by adaptive averages to [..., *shape]."""
    height, width = grid.shape[-2:]
    found: npt.NDArray[Any] = area_matrix(height, shape[0]) @ grid @ area_matrix(width, shape[1]).T
    return found


def upsample(grid: npt.NDArray[np.float32], shape: Shape) -> npt.NDArray[np.float32]:
    """Upsample float32 [..., h, w] bicubically to [..., *shape]."""
    height, width = grid.shape[-2:]
    found: npt.NDArray[Any] = upsample_matrix(shape[0], height) @ grid @ upsample_matrix(shape[1], width).T
    return found


@cache
def area_matrix(size: int, side: int) -> npt.NDArray[np.float32]:
    """Return P, float32 [side, size], read-only: adaptive average pooling from `size` to `side` points along one axis.

    Point i is the mean of [floor(i size / side), ceil((i + 1) size / side)).
    """
    matrix = np.zeros((side, size), dtype=np.float64)
    for position in range(side):
        window = slice(position * size // side, -(-(position + 1) * size // side))
        matrix[position, window] = 1 / (window.stop - window.start)
    return _read_only(matrix)


@cache
def upsample_matrix(size: int, side: int) -> npt.NDArray[np.float32]:
    """Return U, float32 [size, side], read-only: PyTorch's bicubic from `side` to `size` points along one axis.

    align_corners False, a = -0.75, no antialias, the border value repeated outside.
    """
    matrix = np.zeros((size, side), dtype=np.float64)
    positions, weights = _taps(size, side)
    np.add.at(matrix, (np.arange(size), positions), weights)
    return _read_only(matrix)


def upsample_taps(size: int, side: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return U as four taps a point: indices, int32 [4, size] in [0, side), and weights, float32 [4, size].

    An index appears more than once where the border is repeated; its weights add up to U's entry.
    """
    positions, weights = _taps(size, side)
    return positions.astype(np.int32), weights.astype(np.float32)


def _taps(size: int, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    position = (np.arange(size) + 0.5) * (side / size) - 0.5
    reached = np.floor(position).astype(np.int64) + np.array([[-1], [0], [1], [2]])
    return np.clip(reached, 0, side - 1), _kernel(np.abs(position - reached))


def _kernel(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _read_only(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    out = matrix.astype(np.float32)
    out.flags.writeable = False
    return out
