"""Resampling between the scales as constant matrices: exact in every engine, where Resize and adaptive pooling are not.

A map [side, side] becomes ``M m M^T``. The matrices are read off PyTorch's own operators in float64, so they are the
operators.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
