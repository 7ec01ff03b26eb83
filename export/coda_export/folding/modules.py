"""The three parts that are deployed, as PyTorch modules with nothing left of training: uint8 images in and out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from coda_export.folding.resample import Matrices, area_matrices, bicubic_matrices
from coda_export.folding.search import FoldedSearch
from coda_export.folding.vae import Kept
from coda_runtime.format.sizes import count_of
from coda_runtime.format.spec import Spec


class FoldedEncoder(nn.Module):
    """image uint8 [B, H, W, 3] -> latent float32 [B, C, h, w], scaled as the quantizer expects it."""

    def __init__(
        self, encoder: nn.Module, factor: Tensor | None = None, offset: Tensor | None = None, kept: Kept | None = None
    ) -> None:
        """``factor`` and ``offset`` [C], where they are not in ``encoder``: the latent is ``factor * mean + offset``.

        ``kept`` is what stays float32 of ``encoder`` in a lower precision.
        """
        super().__init__()
        self.encoder = encoder
        self.factor, self.offset = a_channel(factor), a_channel(offset)
        self.kept = kept or Kept()

    def forward(self, image: Tensor) -> Tensor:
        """Normalise to [-1, 1] and encode."""
        # Cast first: TensorRT knows uint8 only at a network's ends. The -1 stays out of the first convolution's bias:
        # that convolution pads with zeros after it.
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1.0
        latent = cast(Tensor, self.encoder(pixels))
        latent = latent if self.factor is None else latent * self.factor
        return latent if self.offset is None else latent + self.offset


class FoldedQuantizer(nn.Module):
    """latent float32 [B, C, h, w] -> ids int32 [B, L]."""

    def __init__(self, search: FoldedSearch, spec: Spec) -> None:
        super().__init__()
        self.search, self.spec = search, spec
        self.down = [area_matrices(spec.latent_shape, shape) for shape in spec.scale_shapes]
        self.up = [bicubic_matrices(shape, spec.latent_shape) for shape in spec.scale_shapes]

    @torch.no_grad()
    def forward(self, latent: Tensor) -> Tensor:
        """Search, subtract, next scale. Channels last throughout, so that pooled rows need no transposing."""
        residual, ids = latent.permute(0, 2, 3, 1), []
        for down, up in zip(self.down, self.up, strict=True):
            pooled = apply_both_sides(down, residual)
            found = self.search.ids(pooled.flatten(0, 2)).reshape(pooled.shape[:3])
            residual = residual - apply_both_sides(up, self.search.values[found])
            ids.append(found.flatten(1))
        return torch.cat(ids, 1).int()


class FoldedDecoder(nn.Module):
    """ids int32 [B, L] -> image uint8 [B, H, W, 3]; id V is the null token, whose value is zero."""

    def __init__(
        self,
        values: Tensor,
        decoder: nn.Module,
        offset: Tensor | None,
        spec: Spec,
        factor: Tensor | None = None,
        kept: Kept | None = None,
    ) -> None:
        """``values`` [V, C]; where needed, ``decoder`` is given ``factor * latent + offset``, each [C].

        ``kept`` is what stays float32 of ``decoder`` in a lower precision.
        """
        super().__init__()
        self.decoder = decoder
        self.shapes = spec.scale_shapes
        self.codebook = nn.Parameter(torch.cat([values, values.new_zeros(1, values.shape[1])]), requires_grad=False)
        # The matrices of a square scale are one, as a parameter and in the graph.
        matrices = [bicubic_matrices(shape, spec.latent_shape) for shape in spec.scale_shapes]
        self.up = nn.ParameterList(nn.Parameter(up, requires_grad=False) for up, _ in matrices)
        self.across = nn.ParameterList(
            rows if across is up else nn.Parameter(across, requires_grad=False)
            for rows, (up, across) in zip(self.up, matrices, strict=True)
        )
        self.factor, self.offset = a_channel(factor), a_channel(offset)
        self.kept = kept or Kept()

    def embed(self, ids: Tensor) -> Tensor:
        """Turn ids [B, L] into the quantised latent [B, C, h, w]."""
        values = nn.functional.embedding(ids, self.codebook)
        start, total = 0, None
        for shape, up, across in zip(self.shapes, self.up, self.across, strict=True):
            stop = start + count_of(shape)
            spread = apply_both_sides((up, across), values[:, start:stop].unflatten(1, shape))
            total = spread if total is None else total + spread
            start = stop
        return cast(Tensor, total).permute(0, 3, 1, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed, decode, and leave as pixels."""
        latent = self.embed(ids)
        if self.factor is not None:
            latent = latent * self.factor
        if self.offset is not None:
            # Not in the convolution's bias: it pads with zeros, and the border would be wrong.
            latent = latent + self.offset
        pixels = (self.decoder(latent) * 127.5 + 127.5).round().clamp(0, 255)
        return cast(Tensor, pixels.permute(0, 2, 3, 1).to(torch.uint8))


def a_channel(values: Tensor | None) -> nn.Parameter | None:
    """Return [C] as what a latent [B, C, h, w] is multiplied with or added to."""
    return None if values is None else nn.Parameter(values[:, None, None], requires_grad=False)


def apply_both_sides(matrices: Matrices, grid: Tensor) -> Tensor:
    """Compute ``M g N^T`` for each channel: M [p, n], N [q, m], ``grid`` [B, n, m, C] -> [B, p, q, C]."""
    down, across = matrices
    rows = (down @ grid.flatten(2)).unflatten(2, (grid.shape[2], grid.shape[3]))
    return cast(Tensor, across @ rows)
