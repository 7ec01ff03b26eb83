"""Resampling between the scales as constant matrices: exact in every engine, where Resize and adaptive pooling are not.

A map [n, m] becomes ``M m N^T``; of a square both matrices are one. They are read off PyTorch's own operators in
float64, so they are the operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from coda_runtime.format.sizes import Shape

Matrices: TypeAlias = tuple[Tensor, Tensor]
"""M and N, one tensor where they are equal."""


def area_matrices(shape: Shape, to: Shape) -> Matrices:
    """Return the matrices that pool [*shape] to [*to]."""
    return _both(area_matrix, shape, to)


def bicubic_matrices(shape: Shape, to: Shape) -> Matrices:
    """Return the matrices that upsample [*shape] to [*to]."""
    return _both(bicubic_matrix, shape, to)


def _both(matrix: Callable[[int, int], Tensor], shape: Shape, to: Shape) -> Matrices:
    down = matrix(shape[0], to[0])
    return down, down if (shape[0], to[0]) == (shape[1], to[1]) else matrix(shape[1], to[1])


def area_matrix(size: int, side: int) -> Tensor:
    """Return P float32 [side, size] with ``pooled = P x P^T``: adaptive average pooling from ``size`` to ``side``."""
    identity = torch.eye(size, dtype=torch.float64)[:, None]
    return F.adaptive_avg_pool1d(identity, side)[:, 0].T.float().contiguous()


def bicubic_matrix(side: int, size: int) -> Tensor:
    """Return U float32 [size, side], ``upsampled = U y U^T``: bicubic, align_corners False, a = -0.75, no antialias."""
    # Bicubic is separable and keeps constants, so a map that is constant along one axis shows the other axis alone.
    columns = torch.eye(side, dtype=torch.float64)[None, :, :, None].expand(1, side, side, side)
    spread = F.interpolate(columns, size=(size, side), mode="bicubic", align_corners=False)
    return spread[0, :, :, 0].T.float().contiguous()
