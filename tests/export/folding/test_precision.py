"""Lower precisions keep float32 at the ends and in the normalisations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from coda_deploy.families.autoencoder_kl import LAST
from coda_export.folding.precision import lowered
from coda_export.folding.vae import Kept
from tests.tiny_tokenizers import make

pytestmark = pytest.mark.numeric


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
    with pytest.raises(KeyError, match="int4"):
        lowered(body(), "int4")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_what_decides_the_last_digits_is_float32(precision: str, dtype: torch.dtype, part: str) -> None:
    vae = make("flux").vae
    low = lowered(getattr(vae, part), precision, Kept(LAST))
    seen: dict[str, set[torch.dtype]] = {}

    def record(name: str, tensor: Tensor) -> None:
        seen.setdefault(name, set()).add(tensor.dtype)

    for name, module in low.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.GroupNorm)):
            module.register_forward_hook(lambda _m, _i, out, name=name: record(name, out))
    attended: list[torch.dtype] = []
    attend = nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        attended.extend((query.dtype, key.dtype, value.dtype))
        return attend(query, key, value)

    size = (1, 3, 32, 32) if part == "encoder" else (1, vae.config.latent_channels, 8, 8)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", spy)
        assert low(torch.randn(size)).dtype == torch.float32
    assert attended
    assert set(attended) == {torch.float32}
    float32 = {name for name, types in seen.items() if types == {torch.float32}}
    modules = dict(low.named_modules())
    assert {name for name in float32 if isinstance(modules[name], nn.Conv2d)} == {"inner.conv_out.inner"}
    assert not {name for name in float32 if isinstance(modules[name], nn.Linear)}
    assert {name for name in seen if isinstance(modules[name], nn.GroupNorm)} <= float32
    assert {name for name, types in seen.items() if types == {dtype}} | float32 == set(seen)
