"""What a next-scale generator needs of a tokenizer, in PyTorch: made of the codebook and the spec alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp import is_autocast_available
from torch.nn import functional

from coda_deploy.errors import ConfigError
from coda_runtime import Spec
from coda_runtime.accumulator import check_images
from coda_runtime.codes.ids import check_scale_shape, num_scales
from coda_runtime.codes.resample import area_matrix, upsample_matrix
from coda_runtime.errors import TokenError


class NextScale(nn.Module):
    """The sums over scales that a next-scale generator is trained on, and generates from.

        sums = NextScale(tok.codebook, tok.spec).to("cuda")
        inputs = sums(ids)                # [B,L] -> [B,L-h0*w0,C]: VAR's idxBl_to_var_input
        acc = sums.accumulator(B)         # generation: acc.add(ids) is VAR's get_next_autoregressive_input

    It has no parameters, and its buffers stay out of state dicts. They follow ``.to``: results are on their device and
    of their dtype, and whatever that is, sums are computed in float32 (in float64 for float64), outside of autocast.
    Everything but ``accumulator`` is a function of tensors whose shapes the spec fixes, and goes into torch.compile.
    Ids are of any integer dtype. Their values are not looked at, which would wait for the GPU: one out of [0, V) is an
    error of the indexing.

    ``codebook`` is the value table, [V,C], as `tok.codebook` or a bundle's codebook.fp32.npy has it. Raises
    ``ConfigError`` for one that is not the spec's.
    """

    codebook: Tensor

    def __init__(self, codebook: Tensor | NDArray[np.float32], spec: Spec) -> None:
        super().__init__()
        expected = (spec.vocab_size, spec.latent_channels)
        if tuple(codebook.shape) != expected:
            raise ConfigError(
                f"the codebook is {list(codebook.shape)}, expected {list(expected)}: [V,C] of the spec; pass "
                "tok.codebook and tok.spec of one tokenizer"
            )
        self.spec, self.shapes = spec, spec.scale_shapes
        table = codebook.detach() if isinstance(codebook, Tensor) else torch.from_numpy(np.array(codebook))
        self.register_buffer("codebook", table, persistent=False)
        for number, shape in enumerate(self.shapes):
            for axis, (size, side) in enumerate(zip(spec.latent_shape, shape, strict=True)):
                for name, matrix in (("up", upsample_matrix), ("pool", area_matrix)):
                    made = torch.from_numpy(matrix(size, side).copy()).to(table)
                    self.register_buffer(f"{name}{number}_{axis}", made, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return what precedes each token of ids [B,n] but those of the first scale, [B,n-h0*w0,C], row-major.

        n is a whole number of scales; L is all. Raises ``TokenError`` for another n, and for ids that are no integers.
        """
        sums = list(self._sums(ids))[:-1]
        rows = [self._pooled(total, number) for number, total in enumerate(sums, 1)]
        return torch.cat([self.codebook.new_zeros(len(ids), 0, self.spec.latent_channels), *rows], 1)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the quantised latent of ids [B,n], n a whole number of scales: [B,C,h,w]. Raises ``TokenError``."""
        *_, total = self._sums(ids)
        return total.to(self.codebook.dtype)

    def split(self, ids: Tensor) -> list[Tensor]:
        """Split ids [B,n] into one [B,h*w] a scale. Raises ``TokenError`` unless n is a whole number of scales."""
        if ids.ndim != 2:
            raise TokenError(f"ids has shape {list(ids.shape)}; expected [B,n]")
        known = self.spec.prefix_lengths[: num_scales(ids.shape[1], self.spec)]
        return [ids[:, start:stop] for start, stop in pairwise((0, *known))]

    def start(self, B: int) -> Tensor:
        """Return the latent before the first scale, zeros [B,C,h,w], float32 or float64."""
        shape = (B, self.spec.latent_channels, *self.spec.latent_shape)
        return self.codebook.new_zeros(shape, dtype=self._precise)

    def step(self, latent: Tensor, ids: Tensor, number: int) -> tuple[Tensor, Tensor | None]:
        """Add the ids of scale ``number``, from 0, to a latent that ``start`` or ``step`` gave.

        ids are [B,h,w] or [B,h*w]. Return the new latent and the next scale's input, [B,h'*w',C], None after the last.
        """
        total = latent + self._spread(ids, number)
        return total, self._pooled(total, number + 1) if number + 1 < len(self.shapes) else None

    def accumulator(self, B: int) -> TorchAccumulator:
        """Start the generation of ``B`` images, scale by scale. Raises ``InputError`` for a ``B`` under 1."""
        check_images(B)
        return TorchAccumulator(self, B)

    @property
    def _precise(self) -> torch.dtype:
        return torch.promote_types(self.codebook.dtype, torch.float32)

    def _sums(self, ids: Tensor) -> Iterator[Tensor]:
        total = self.start(len(ids))
        for number, scale in enumerate(self.split(ids)):
            total = total + self._spread(scale, number)
            yield total

    def _spread(self, ids: Tensor, number: int) -> Tensor:
        """Return the values of ids [B,h,w] or [B,h*w], upsampled to [B,C,h,w]."""
        # Indexing would count negative ids from the end, and take uint8 for a mask.
        values = functional.embedding(_integers(ids).flatten(1), self.codebook).to(self._precise).transpose(1, 2)
        return self._both("up", values.unflatten(2, self.shapes[number]), number)

    def _pooled(self, total: Tensor, number: int) -> Tensor:
        """Pool a sum [B,C,h,w] to a scale -> [B,h'*w',C] in the buffers' dtype."""
        return self._both("pool", total, number).flatten(2).transpose(1, 2).to(self.codebook.dtype)

    def _both(self, name: str, grid: Tensor, number: int) -> Tensor:
        down, across = (getattr(self, f"{name}{number}_{axis}").to(self._precise) for axis in (0, 1))
        with _without_autocast(grid.device.type):
            found: Tensor = down @ grid @ across.T
        return found


def _integers(ids: Tensor) -> Tensor:
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TokenError(f"ids is {ids.dtype}; expected int64 or another integer dtype")
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.long()


def _without_autocast(device: str) -> AbstractContextManager[object]:
    # The meta device has no autocast that could be switched off.
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()


class TorchAccumulator:
    """Generation of images, scale by scale, as `coda_runtime.Accumulator`. Made by ``NextScale.accumulator``.

    ``latent`` is the sum so far, [B,C,h,w], float32 or float64; ``ids`` what was added, [B,n]: `tok.decode(acc.ids)`
    are the images.
    """

    def __init__(self, sums: NextScale, B: int) -> None:
        self._sums = sums
        self._added: list[Tensor] = []
        self.latent = sums.start(B)

    def add(self, ids: Tensor) -> Tensor | None:
        """Add the ids of the next scale, [B,h,w] or [B,h*w]; return the input of the one after it, None after the last.

        Raises ``TokenError`` for another shape, for what are no integers, or when no scale is left.
        """
        number = len(self._added)
        check_scale_shape(ids.shape, self._sums.spec, number, len(self.latent))
        self.latent, following = self._sums.step(self.latent, ids, number)
        self._added.append(ids.flatten(1).clone())  # the caller may draw the next scale into the same memory
        return following

    @property
    def ids(self) -> Tensor:
        """What was added, [B,n], coarse to fine and row-major inside a scale."""
        none = torch.empty(len(self.latent), 0, dtype=torch.int64, device=self.latent.device)
        return torch.cat(self._added, 1) if self._added else none
