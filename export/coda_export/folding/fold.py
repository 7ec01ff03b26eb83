"""Fold a tokenizer for deployment: same tokens, same pixels, less to compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from coda_export.folding.modules import FoldedDecoder, FoldedEncoder, FoldedQuantizer
from coda_export.folding.search import SearchWeights, fold_search
from coda_export.folding.upsample import fold_upsamples
from coda_export.folding.vae import VaeParts, after, bias_of, conv_like
from coda_runtime.format.spec import Spec


@dataclass(frozen=True)
class Folded:
    """What is exported: three float32 modules in eval mode and what they compute."""

    spec: Spec
    encoder: FoldedEncoder
    quantizer: FoldedQuantizer
    decoder: FoldedDecoder


def _fold_encoder(parts: VaeParts, scale: Tensor, shift: Tensor) -> FoldedEncoder:
    """Fold ``scale * (mean - shift)`` into the last convolution, or do it after."""
    encoder, kept = parts.encoder, parts.encoder_kept
    if parts.last is None:
        return FoldedEncoder(encoder, _unless(scale, 1.0), _unless(-scale * shift, 0.0), kept)
    conv = cast(nn.Conv2d, encoder.get_submodule(parts.last))
    _set(encoder, parts.last, after(conv, torch.diag(scale), -scale * shift))
    return FoldedEncoder(encoder, kept=kept)


def _fold_decoder(parts: VaeParts, values: Tensor, scale: Tensor, shift: Tensor, spec: Spec) -> FoldedDecoder:
    """Undo scale and shift: in a first convolution that does not pad; of one that pads the scale, and an Add before."""
    decoder, kept = parts.decoder, parts.decoder_kept
    fold_upsamples(decoder)
    if parts.first is None:
        return FoldedDecoder(values, decoder, _unless(shift, 0.0), spec, _unless(1 / scale, 1.0), kept)
    conv = cast(nn.Conv2d, decoder.get_submodule(parts.first))
    weight = conv.weight.double()
    if any(cast(tuple[int, int], conv.padding)):
        _set(decoder, parts.first, conv_like(conv, weight / scale[:, None, None], _bias(conv)))
        return FoldedDecoder(values, decoder, _unless(scale * shift, 0.0), spec, kept=kept)
    bias = weight.sum((2, 3)) @ shift + bias_of(conv)
    _set(decoder, parts.first, conv_like(conv, weight / scale[:, None, None], bias))
    return FoldedDecoder(values, decoder, None, spec, kept=kept)


def _bias(conv: nn.Conv2d) -> Tensor | None:
    return None if conv.bias is None else conv.bias.double()


def _unless(values: Tensor, neutral: float) -> Tensor | None:
    """Return what is to be applied a channel, float32 [C]; None where it changes nothing."""
    return None if bool((values == neutral).all()) else values.float()


def _set(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


Statistic = float | Sequence[float]


@torch.no_grad()
def fold(vae: VaeParts, search: SearchWeights, latent_scale: Statistic, latent_shift: Statistic, spec: Spec) -> Folded:
    """Fold ``vae``, whose modules are taken over and changed, and the quantizer's ``search``, which is not.

    The latent is ``latent_scale * (mean - latent_shift)``, both a number or one for each channel.
    """
    scale, shift = (
        torch.tensor(values, dtype=torch.float64).expand(spec.latent_channels).clone()
        for values in (latent_scale, latent_shift)
    )
    folded = fold_search(search)
    parts = Folded(
        spec,
        _fold_encoder(vae, scale, shift),
        FoldedQuantizer(folded, spec),
        _fold_decoder(vae, folded.values, scale, shift, spec),
    )
    for module in (parts.encoder, parts.quantizer, parts.decoder):
        # What was folded in float64 is rounded here, once.
        module.float().eval().requires_grad_(False)
    return parts
