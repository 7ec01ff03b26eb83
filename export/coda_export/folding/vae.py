"""A continuous VAE as it is handed to the exporter: two modules, and what may be folded into their ends.

The exporter knows no class of VAE by its name. Whoever hands one in says where its latent leaves and enters, and which
of its modules keep float32 where the rest computes in less; the functions here join what is linear there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kept:
    """What stays float32 in a lower precision, beside normalisations and the scores of diffusers' ``Attention``.

    ``last``: the paths of the last layers, whose output is float32. ``whole``: types of modules that compute in float32
    and give the lower type; ``norms``: types of normalisations beside PyTorch's and diffusers'.
    """

    last: tuple[str, ...] = ()
    whole: tuple[type[nn.Module], ...] = ()
    norms: tuple[type[nn.Module], ...] = ()


@dataclass(frozen=True)
class VaeParts:
    """A VAE without LoRA; its modules are the exporter's to change.

    ``encoder`` maps pixels float [B, 3, H, W] in [-1, 1] to the mean [B, C, h, w], ``decoder`` that to images in about
    [-1, 1]. ``last`` is the path in ``encoder`` of a convolution whose output is the mean itself, ``first`` the path
    in ``decoder`` of the one that reads the latent where nothing else does: scale and shift are folded into them.
    Where there is none, they become a multiplication and a sum.
    """

    encoder: nn.Module
    decoder: nn.Module
    last: str | None = None
    first: str | None = None
    encoder_kept: Kept = field(default_factory=Kept)
    decoder_kept: Kept = field(default_factory=Kept)


class Narrow(nn.Module):
    """The first ``channels`` of [B, C, h, w]: the means, without the variances."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Cut the rest off."""
        return x[:, : self.channels]


def in_sequence(**modules: nn.Module) -> nn.Sequential:
    """Join modules, one after the other, under their names."""
    return nn.Sequential(OrderedDict(modules))


def bias_of(conv: nn.Conv2d) -> Tensor:
    """Return a convolution's bias in float64, zeros where it has none."""
    return conv.bias.double() if conv.bias is not None else torch.zeros(conv.out_channels, dtype=torch.float64)


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution of these float64 weights that moves over its input as ``conv`` does."""
    made = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        cast(tuple[int, int], tuple(weight.shape[2:])),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        bias=bias is not None,
        dtype=torch.float64,
    )
    made.weight.copy_(weight)
    if bias is not None and made.bias is not None:
        made.bias.copy_(bias)
    return made


@torch.no_grad()
def after(conv: nn.Conv2d, matrix: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return one convolution for ``matrix @ conv(x) + bias`` (per position); exact, since nothing pads in between."""
    weight = torch.einsum("po,oikl->pikl", matrix, conv.weight.double())
    return conv_like(conv, weight, matrix @ bias_of(conv) + bias)


@torch.no_grad()
def mean_of(conv: nn.Conv2d, quant_conv: nn.Conv2d | None, channels: int | None = None) -> nn.Conv2d:
    """Return the means alone of ``quant_conv(conv(x))``, the first half of its channels, as one float64 convolution."""
    if quant_conv is None:
        matrix, bias = torch.eye(conv.out_channels, dtype=torch.float64), torch.zeros(conv.out_channels).double()
    else:
        matrix, bias = quant_conv.weight.double().flatten(1), bias_of(quant_conv)
    channels = len(matrix) // 2 if channels is None else channels
    return after(conv, matrix[:channels], bias[:channels])


@torch.no_grad()
def patched(conv: nn.Conv2d, patch: int) -> nn.Conv2d:
    """Return one convolution, of stride ``patch``, for ``pixel_unshuffle(conv(x), patch)``, whose stride is 1."""
    weight = conv.weight.double()
    size = weight.shape[2] + patch - 1
    moved = weight.new_zeros(len(weight), patch, patch, weight.shape[1], size, size)
    for row in range(patch):
        for column in range(patch):
            moved[:, row, column, :, row : row + weight.shape[2], column : column + weight.shape[3]] = weight
    made = conv_like(conv, moved.flatten(0, 2), bias_of(conv).repeat_interleave(patch**2))
    made.stride = (patch, patch)
    return made


@torch.no_grad()
def on_patches(conv: nn.Conv2d, patch: int) -> nn.Conv2d:
    """Return the 1x1 convolution that does to a latent in patches what the 1x1 ``conv`` does to it out of them."""
    matrix = torch.kron(conv.weight.double().flatten(1), torch.eye(patch**2, dtype=torch.float64))
    return conv_like(conv, matrix[:, :, None, None], bias_of(conv).repeat_interleave(patch**2))
