"""The multi-scale residual quantizer: tokens coarse to fine, each scale coding what the earlier ones left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.distributed import mean
from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.losses import entropy_loss, vq_loss
from coda_deploy.tokenizer.search import AttentionSearch
from coda_runtime.format.sizes import Scales, Shape, count_of, shapes_of


class Quantized(NamedTuple):
    """``ids`` int32 [B, L]; ``latent`` the quantised latent [B, C, h, w]; both losses are scalars.

    ``prefix`` is the latent after the first scales alone, as many as were asked for, or None.
    """

    ids: Tensor
    latent: Tensor
    prefix: Tensor | None
    vq_loss: Tensor
    entropy_loss: Tensor


def pool_rows(latent: Tensor, shape: Shape) -> Tensor:
    """Downsample by area [B, C, h, w] to ``shape`` (a, b) and flatten row-major: [B * a * b, C]."""
    return F.interpolate(latent, size=shape, mode="area").permute(0, 2, 3, 1).flatten(0, 2)


def spread_rows(rows: Tensor, shape: Shape, size: Sequence[int]) -> Tensor:
    """Upsample rows [B * a * b, C] of ``shape`` (a, b) bicubically to ``size`` (h, w): [B, C, h, w]."""
    grid = rows.unflatten(0, (-1, *shape)).permute(0, 3, 1, 2)
    return F.interpolate(grid, size=tuple(size), mode="bicubic", align_corners=False)


class ResidualQuantizer(nn.Module):
    """One codebook E [V, C] for all scales, searched by attention (arXiv 2503.17760).

    ``scales`` are the sides of squares, or (height, width) of each; another schedule may be set at any time.
    """

    scales: Scales

    def __init__(self, vocab_size: int, channels: int, scales: Scales, dim: int, norm: NormType, eps: float) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.codebook = nn.Parameter(0.2 * torch.randn(vocab_size, channels))
        self.search = AttentionSearch(channels, dim, norm, eps)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """(height, width) of each scale."""
        return shapes_of(self.scales)

    @torch.no_grad()
    def encode(self, latent: Tensor) -> Tensor:
        """Turn a latent [B, C, h, w] into ids int32 [B, L]."""
        keys, values = self.search.keys(self.codebook), self.search.values(self.codebook)
        residual, ids = latent, []
        for shape in self.shapes:
            found = self.search.ids(pool_rows(residual, shape), keys)
            residual = residual - spread_rows(values[found], shape, latent.shape[-2:])
            ids.append(found.unflatten(0, (-1, count_of(shape))))
        return torch.cat(ids, 1).int()

    @torch.no_grad()
    def encode_step(self, latent: Tensor, ids: Tensor) -> Tensor:
        """Find each scale's ids in the residual that ``ids``' own earlier scales leave of ``latent``: int32 [B, L].

        What a port's ``ids`` are judged by: a near tie that fell the other way is counted once instead of changing
        every later scale.
        """
        keys, values = self.search.keys(self.codebook), self.search.values(self.codebook)
        residual, out = latent, []
        for shape, given in zip(self.shapes, self.split(ids), strict=True):
            out.append(self.search.ids(pool_rows(residual, shape), keys).unflatten(0, (-1, count_of(shape))))
            residual = residual - spread_rows(values[given.flatten()], shape, latent.shape[-2:])
        return torch.cat(out, 1).int()

    def split(self, ids: Tensor) -> list[Tensor]:
        """Split ids [B, n] into one [B, h, w] per scale, for the first scales that n covers."""
        shapes = self.shapes[: self.num_scales(ids.shape[1])]
        parts = ids.split(list(map(count_of, shapes)), 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def num_scales(self, tokens: int) -> int:
        """Return how many whole scales ``tokens`` ids cover. Raises ``ValueError`` when they end inside a scale."""
        lengths = list(accumulate(map(count_of, self.shapes)))
        if tokens not in lengths:
            raise ValueError(f"{tokens} ids are not a whole number of scales: expected one of {lengths}")
        return lengths.index(tokens) + 1

    def embed(self, ids: Tensor) -> Tensor:
        """Turn ids [B, n] of the first scales into the quantised latent [B, C, h, w]."""
        values, size = self.search.values(self.codebook), self.shapes[-1]
        parts = zip(self.split(ids), self.shapes, strict=False)  # a prefix has fewer
        return torch.stack([spread_rows(values[grid.flatten()], shape, size) for grid, shape in parts]).sum(0)

    def forward(self, latent: Tensor, prefix_scales: int = 0) -> Quantized:
        """Turn a latent [B, C, h, w] into ids, quantised latent and losses, with gradients through every scale.

        Runs in the codebook's precision also under autocast: a logit off by 1e-3 already changes tokens. Under
        torch.distributed the entropy is that of the whole batch, over all processes.
        """
        with torch.autocast(latent.device.type, enabled=False):
            return self._forward(latent.to(self.codebook.dtype), prefix_scales)

    def _forward(self, latent: Tensor, prefix_scales: int) -> Quantized:
        keys, values = self.search.keys(self.codebook), self.search.values(self.codebook)
        residual, quantized = latent, torch.zeros_like(latent)
        ids, vq_losses, entropy_losses = [], [], []
        prefix = None
        for number, shape in enumerate(self.shapes, 1):
            target = pool_rows(residual, shape)
            found = self.search(target, keys, values)
            step = spread_rows(found.soft_value, shape, latent.shape[-2:])
            residual, quantized = residual - step, quantized + step
            prefix = quantized if number == prefix_scales else prefix
            ids.append(found.ids.unflatten(0, (-1, count_of(shape))))
            vq_losses.append(vq_loss(target, found.soft_value, found.hard_value))
            entropy_losses.append(entropy_loss(mean(found.row_entropy), mean(found.mean_probs)))
        return Quantized(
            torch.cat(ids, 1).int(),
            quantized,
            prefix,
            torch.stack(vq_losses).mean(),
            torch.stack(entropy_losses).mean(),
        )
