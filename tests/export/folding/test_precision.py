"""Lower precisions keep float32 at the ends and in the normalisations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coda_export.folding.precision import lowered


def body() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 1)).requires_grad_(False)


def test_fp32_is_the_module_itself() -> None:
    module = body()
    assert lowered(module, "fp32") is module


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_low_convolutions_between_float32_ends(precision: str, dtype: torch.dtype) -> None:
    module, x = body(), torch.randn(1, 3, 8, 8)
    low = lowered(module, precision)
    types = {
        type(m): {p.dtype for p in m.parameters(recurse=False)} for m in low.modules() if list(m.parameters(False))
    }
    assert types == {nn.Conv2d: {dtype}, nn.GroupNorm: {torch.float32}}
    out = low(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, module(x), atol=0.1, rtol=0.1)
    assert not torch.equal(out, module(x))
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_an_unknown_precision() -> None:
    with pytest.raises(KeyError, match="int8"):
        lowered(body(), "int8")
