"""Lower precisions, made in the graph, since strongly typed engines take each layer's type from there.

Convolutions and projections compute in the low type. What decides the last digits stays float32: the statistics of
normalisations, the scores of attention and what is summed with them, and the last layers, whose output is the latent
that the code search reads, or the image. benchmarks/bench_precision.py measures what that is worth.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from coda_export.folding.vae import Kept

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}

NOTHING_KEPT = Kept()
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d, RMSNorm)


class _Cast(nn.Module):
    """Runs ``inner`` on ``before`` and returns ``after``."""

    def __init__(self, inner: nn.Module, before: torch.dtype, after: torch.dtype) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x.to(self.before))).to(self.after)


def lowered(body: nn.Module, precision: str, kept: Kept = NOTHING_KEPT) -> nn.Module:
    """Return ``body``, a VAE's encoder or decoder, computing in ``precision``, float32 in and out.

    ``kept`` says what of it stays float32. fp32 returns it as it is, and so does int8, whose integers are made of the
    finished graph (coda_export.int8); otherwise it is copied. Raises ``KeyError`` for a precision not in ``DTYPES``.
    """
    dtype = DTYPES[precision]
    if dtype is torch.float32 or not dtype.is_floating_point:
        return body
    low = copy.deepcopy(body).to(dtype)
    done: list[str] = []
    for name, module in list(low.named_modules()):
        if any(name.startswith(f"{path}.") for path in done):
            continue
        if name in kept.last or isinstance(module, (*_NORMS, *kept.norms, *kept.whole)):
            after = torch.float32 if name in kept.last else dtype
            _replace(low, name, _Cast(module.float(), torch.float32, after))
            done.append(name)
        elif isinstance(module, Attention):
            _attend_in_float32(module, dtype)
    return _Cast(low, dtype, torch.float32)


def _attend_in_float32(attention: Attention, dtype: torch.dtype) -> None:
    """Make queries, keys and values leave their projections, computed in ``dtype``, as float32."""
    for name in ("to_q", "to_k", "to_v"):
        setattr(attention, name, _Cast(getattr(attention, name), dtype, torch.float32))
    attention.to_out[0] = _Cast(attention.to_out[0], dtype, dtype)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)
