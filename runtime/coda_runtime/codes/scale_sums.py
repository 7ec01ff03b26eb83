"""The sum that the scales make: what a next-scale generator sees of the coarser ones, and the decoder of all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from ..format.parts import LATENT
from ..format.sizes import Shape
from ..format.spec import Spec
from .ids import Ids, num_scales, split_ids
from .resample import pool, upsample

Float32 = npt.NDArray[np.float32]


def sums(ids: Ids, spec: Spec, table: Float32) -> Iterator[Float32]:
    """Yield the quantised latent after each scale of int32 [B,n], float32 [B,C,h,w], each an array of its own.

    `table` is the value table, float32 [V,C].
    """
    total = np.zeros(LATENT.shape(spec, len(ids)), LATENT.dtype)
    for grid in split_ids(ids, spec):
        total = total + spread(grid, spec, table)
        yield total


def spread(grid: Ids, spec: Spec, table: Float32) -> Float32:
    """Return the values of one scale, int32 [B,a,b], bicubic-upsampled: float32 [B,C,h,w]."""
    return upsample(table[grid].transpose(0, 3, 1, 2), spec.latent_shape)


def rows_of(total: Float32, shape: Shape) -> Float32:
    """Return float32 [B,C,h,w], area-downsampled to a scale: float32 [B,a*b,C], row-major."""
    pooled = pool(total, shape).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pooled).reshape(len(total), -1, total.shape[1])


def next_scale_inputs(ids: Ids, spec: Spec, table: Float32) -> Float32:
    """Return what precedes the tokens of every scale of int32 [B,n] but the first: float32 [B,n-h0*w0,C], row-major."""
    coarser = num_scales(ids.shape[1], spec) - 1
    seen = zip(islice(sums(ids, spec, table), coarser), spec.scale_shapes[1:], strict=False)
    found = [rows_of(total, shape) for total, shape in seen]
    return np.concatenate([np.empty((len(ids), 0, spec.latent_channels), np.float32), *found], 1)
