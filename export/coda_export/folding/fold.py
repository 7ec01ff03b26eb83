"""Fold a tokenizer for deployment: same tokens, same pixels, less to compute."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from coda_export.folding.modules import FoldedDecoder, FoldedEncoder, FoldedQuantizer
from coda_export.folding.search import SearchWeights, fold_search
from coda_export.folding.upsample import fold_upsamples
from coda_runtime.format.spec import Spec


@dataclass(frozen=True)
class Folded:
    """What is exported: three float32 modules in eval mode and what they compute."""

    spec: Spec
    encoder: FoldedEncoder
    quantizer: FoldedQuantizer
    decoder: FoldedDecoder


class Vae(Protocol):
    """What folding needs of a diffusers ``AutoencoderKL``."""

    encoder: nn.Module
    decoder: nn.Module
    quant_conv: nn.Conv2d | None
    post_quant_conv: nn.Conv2d | None


def _after(conv: nn.Conv2d, matrix: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return one convolution for ``matrix @ conv(x) + bias`` (per position); exact, since nothing pads in between."""
    weight = torch.einsum("po,oikl->pikl", matrix, conv.weight.double())
    return _conv_like(conv, weight, matrix @ _bias(conv) + bias)


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.bias.double() if conv.bias is not None else torch.zeros(conv.out_channels, dtype=torch.float64)


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    made = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        cast(tuple[int, int], conv.kernel_size),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        bias=bias is not None,
    )
    made.weight.copy_(weight)
    if bias is not None and made.bias is not None:
        made.bias.copy_(bias)
    return made


def _fold_encoder(vae: Vae, channels: int, scale: float, shift: float) -> FoldedEncoder:
    """Fold ``scale * (mean - shift)`` and the 1x1 ``quant_conv`` into the last convolution; cut the variances off."""
    encoder = copy.deepcopy(vae.encoder)
    conv, quant_conv = cast(nn.Conv2d, encoder.conv_out), vae.quant_conv
    if quant_conv is None:
        matrix, bias = torch.eye(conv.out_channels, dtype=torch.float64), torch.zeros(conv.out_channels).double()
    else:
        matrix, bias = quant_conv.weight.double().flatten(1), _bias(quant_conv)
    encoder.conv_out = _after(conv, scale * matrix[:channels], scale * (bias[:channels] - shift))
    return FoldedEncoder(encoder)


def _fold_decoder(vae: Vae, values: Tensor, scale: float, shift: float, spec: Spec) -> FoldedDecoder:
    """Undo scale and shift: in ``post_quant_conv`` where there is one, else in the first convolution and an Add."""
    decoder = copy.deepcopy(vae.decoder)
    fold_upsamples(decoder)
    conv, post_quant_conv = cast(nn.Conv2d, decoder.conv_in), vae.post_quant_conv
    if post_quant_conv is not None:
        matrix = post_quant_conv.weight.double().flatten(1)
        made = _conv_like(
            post_quant_conv,
            (matrix / scale)[:, :, None, None],
            matrix.sum(1) * shift + _bias(post_quant_conv),
        )
        return FoldedDecoder(values, nn.Sequential(made, decoder), None, spec)
    decoder.conv_in = _conv_like(conv, conv.weight.double() / scale, conv.bias)
    offset = torch.full((spec.latent_channels,), scale * shift) if shift else None
    return FoldedDecoder(values, decoder, offset, spec)


@torch.no_grad()
def fold(vae: Vae, search: SearchWeights, latent_scale: float, latent_shift: float, spec: Spec) -> Folded:
    """Fold ``vae`` (a diffusers ``AutoencoderKL`` without LoRA) and the quantizer's ``search``.

    The latent is ``latent_scale * (mean - latent_shift)``. Nothing passed in is changed.
    """
    folded = fold_search(search)
    parts = Folded(
        spec,
        _fold_encoder(vae, spec.latent_channels, latent_scale, latent_shift),
        FoldedQuantizer(folded, spec),
        _fold_decoder(vae, folded.values, latent_scale, latent_shift, spec),
    )
    for module in (parts.encoder, parts.quantizer, parts.decoder):
        module.eval().requires_grad_(False)
    return parts
