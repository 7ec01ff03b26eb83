from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.upsampling import Upsample2D
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coda_export.folding.upsample import FoldedUpsample, fold_upsamples

pytestmark = pytest.mark.numeric


def _upsample(channels: int, outputs: int, bias: bool = True, **changed: Any) -> Upsample2D:
    torch.manual_seed(channels * 8 + outputs)
    module = Upsample2D(channels, use_conv=True, out_channels=outputs, bias=bias, **changed)
    return cast(Upsample2D, module.eval().requires_grad_(False))


def _folded(module: Upsample2D) -> FoldedUpsample:
    return FoldedUpsample(cast(nn.Conv2d, module.conv))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    outputs=st.integers(1, 5),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_it_is_doubling_and_the_convolution(shape: tuple[int, ...], outputs: int, bias: bool) -> None:
    module = _upsample(shape[1], outputs, bias)
    x = torch.randn(shape)
    expected = module(x)
    torch.testing.assert_close(_folded(module)(x), expected, rtol=1e-5, atol=1e-5)
    # The other way of interleaving, which is taken for every lower precision.
    low = _folded(module).to(torch.float64)(x.double())
    torch.testing.assert_close(low, module.double()(x.double()), rtol=1e-6, atol=1e-7)


def _decoder() -> nn.Module:
    torch.manual_seed(0)
    blocks = ("UpDecoderBlock2D",) * 3
    decoder = Decoder(4, 3, up_block_types=blocks, block_out_channels=(32, 32, 64), layers_per_block=1)
    return cast(nn.Module, decoder.eval().requires_grad_(False))


def test_all_of_a_decoder_s_are_replaced() -> None:
    decoder, latent = _decoder(), torch.randn(2, 4, 5, 7)
    expected: Tensor = decoder(latent)
    fold_upsamples(decoder)
    kinds = [type(module) for module in decoder.modules()]
    assert (kinds.count(FoldedUpsample), kinds.count(Upsample2D)) == (2, 0)
    torch.testing.assert_close(decoder(latent), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"use_conv_transpose": True},
        {"kernel_size": 1, "padding": 0},
        {"norm_type": "ln_norm", "eps": 1e-5},
        {"name": "x"},
    ],
)
def test_others_stay_as_they_are(changed: dict[str, Any]) -> None:
    root = nn.Sequential(_upsample(8, 8, **changed))
    before = copy.deepcopy(root)
    fold_upsamples(root)
    assert isinstance(root[0], Upsample2D)
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(root(x), before(x))
