"""Lower precisions, made in the graph: convolutions and projections in the low type, statistics in float32."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _WithFloat32(nn.Module):
    """Runs ``inner`` in float32 and returns to ``dtype``."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x.float())).to(self.dtype)


class _InLow(nn.Module):
    """Runs ``body`` in ``dtype`` between float32 ends."""

    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self.dtype = body, dtype

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x.to(self.dtype))).float()


def lowered(body: nn.Module, precision: str) -> nn.Module:
    """``body`` computing in ``precision``, float32 in and out; normalisations keep float32. fp32 returns it as it is.

    Raises ``KeyError`` for a precision not in ``DTYPES``.
    """
    dtype = DTYPES[precision]
    if dtype is torch.float32:
        return body
    low = copy.deepcopy(body).to(dtype)
    for name, module in list(low.named_modules()):
        if isinstance(module, nn.GroupNorm):
            parent, _, leaf = name.rpartition(".")
            setattr(low.get_submodule(parent), leaf, _WithFloat32(module.float(), dtype))
    return _InLow(low, dtype)
