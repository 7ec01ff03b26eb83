"""Nearest upsampling and the convolution after it, as convolutions of the small image: 16 products instead of 36.

A 3x3 convolution of an image that was doubled sees each small pixel two or four times. With w_k the kernel's rows, and
likewise for its columns::

    row 2i     = w_0 x[i-1] + (w_1 + w_2) x[i]
    row 2i + 1 = (w_0 + w_1) x[i] + w_2 x[i+1]

so each of the four parities of (row, column) is a 2x2 convolution of the small image, whose kernel is known before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeGuard, cast

import torch
from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

_PARITIES = ((0, 0), (0, 1), (1, 0), (1, 1))


class FoldedUpsample(nn.Module):
    """[B, C, H, W] -> [B, O, 2H, 2W]: nearest upsampling, then ``conv`` (3x3, padded by 1), folded in float64."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.double()
        self.weights = nn.ParameterList(
            nn.Parameter(_halved(_halved(weight, 2, row), 3, column).to(conv.weight.dtype), requires_grad=False)
            for row, column in _PARITIES
        )
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute the four parities, and interleave rows and columns."""
        parts = [
            # Row i with the one above it for even rows, with the one below it for odd rows; columns likewise.
            nn.functional.conv2d(nn.functional.pad(x, (1 - column, column, 1 - row, row)), weight, self.bias)
            for weight, (row, column) in zip(self.weights, _PARITIES, strict=True)
        ]
        # The same values two ways: onnxruntime's CPU provider, which runs float32, is fast at the first, and OpenVINO,
        # which runs bf16, at the second. benchmarks/bench_upsample.py compares them.
        return interleave_by_stacking(parts) if x.dtype is torch.float32 else interleave_by_transposing(parts)


def interleave_by_stacking(parts: Sequence[Tensor]) -> Tensor:
    """Interleave four [B, O, H, W], in the order of the parities, to [B, O, 2H, 2W]: columns, then rows."""
    even, odd = (torch.stack(tuple(parts[start : start + 2]), -1).flatten(3) for start in (0, 2))
    return torch.stack((even, odd), 3).flatten(2, 3)


def interleave_by_transposing(parts: Sequence[Tensor]) -> Tensor:
    """Interleave likewise, columns and rows at once."""
    grid = torch.cat(tuple(parts), 1).unflatten(1, (2, 2, -1))  # [B, 2, 2, O, H, W]
    return cast(Tensor, grid.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3))


def _halved(weight: Tensor, axis: int, parity: int) -> Tensor:
    """Return the kernel's three rows (``axis`` 2) or columns (3) as the two that an output of this parity needs."""
    first, middle, last = weight.split(1, axis)
    return torch.cat((first, middle + last) if parity == 0 else (first + middle, last), axis)


def fold_upsamples(decoder: nn.Module) -> None:
    """Replace every doubling with a plain 3x3 convolution behind it in ``decoder``; others stay as they are.

    Those are diffusers' Upsample2D, a DCUpBlock2d that interpolates, and in an nn.Sequential an nn.Upsample before its
    convolution.
    """
    for name, module in list(decoder.named_modules()):
        if isinstance(module, Upsample2D) and module.norm is None and module.interpolate:
            conv = getattr(module, "conv", None)
            if _is_plain(conv):
                parent, _, leaf = name.rpartition(".")
                setattr(decoder.get_submodule(parent), leaf, FoldedUpsample(conv))
        elif isinstance(module, DCUpBlock2d) and module.interpolate and module.interpolation_mode in _NEAREST:
            if _is_plain(module.conv):
                parent, _, leaf = name.rpartition(".")
                setattr(decoder.get_submodule(parent), leaf, _WithShortcut(module))
        elif isinstance(module, nn.Sequential):
            for at, (first, second) in enumerate(itertools.pairwise(list(module))):
                if _doubles(first) and _is_plain(second):
                    module[at], module[at + 1] = nn.Identity(), FoldedUpsample(second)


class _WithShortcut(nn.Module):
    """A DCUpBlock2d, its doubling folded: beside it, each channel is repeated and its copies interleaved."""

    def __init__(self, block: DCUpBlock2d) -> None:
        super().__init__()
        self.conv = FoldedUpsample(block.conv)
        self.repeats = int(block.repeats) if block.shortcut else 0

    def forward(self, x: Tensor) -> Tensor:
        """Double both ways."""
        doubled: Tensor = self.conv(x)
        if not self.repeats:
            return doubled
        return doubled + nn.functional.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)


_NEAREST = ("nearest", "nearest-exact")


def _doubles(module: nn.Module) -> bool:
    if not isinstance(module, nn.Upsample) or module.mode not in _NEAREST or module.size is not None:
        return False
    factor = module.scale_factor
    return factor in (2, (2, 2))


def _is_plain(conv: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(conv, nn.Conv2d)
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )
