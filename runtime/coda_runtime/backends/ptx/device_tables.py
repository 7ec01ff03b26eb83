"""The constants that the kernels read, laid out and filled up as they expect them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...codes.resample import upsample_taps
from ...codes.search_tables import Float32, SearchTables
from ...errors import ArtifactError
from ...format.spec import Spec
from ...io.counts import count
from .kernel_set import KernelSet
from .screening import half_tables


def device_tables(kernels: KernelSet, spec: Spec, tables: SearchTables, values: Float32) -> dict[str, npt.NDArray[Any]]:
    """Return every table that a plan names, by that name, C-contiguous; `values` is W, float32 [V, C].

    Raises ArtifactError where the kernels were compiled for another tokenizer, or for another norm than the tables'.
    """
    kernels.check(spec)
    sizes = kernels.of("search")[0].sizes
    codes, padded, query, width = sizes["CODES"], sizes["CHANNELS_PADDED"], sizes["QUERY"], sizes["QUERY_PADDED"]
    vocab, channels = spec.vocab_size, spec.latent_channels
    dim = 0 if tables.spread is None else tables.spread.shape[1]
    features = channels + 1 + (tables.spread is not None)
    if dim != query or width < query or tables.table.shape != (vocab, features) or values.shape != (vocab, channels):
        raise ArtifactError(
            f"the kernels are for {count(vocab, 'code')} and queries of {query}, and the tables are "
            f"{list(tables.table.shape)}, values {list(values.shape)}, queries of {dim}; export the bundle again"
        )
    table = np.zeros((padded, codes), np.float32)
    table[:channels, :vocab] = tables.table[:, :channels].T
    # The codes that fill the table up score minus infinity, which is never greater than anything.
    bias = np.full(codes, -np.inf, np.float32)
    bias[:vocab] = tables.table[:, channels]
    slope, spread, offset = np.zeros(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    if tables.spread is not None:
        slope = np.zeros(codes, np.float32)
        slope[:vocab] = tables.table[:, channels + 1]
        spread, offset = np.zeros((padded, width), np.float32), np.zeros(width, np.float32)
        spread[:channels, :dim], offset[:dim] = tables.spread[:channels], tables.spread[channels]
    filled = np.zeros((vocab, padded), np.float32)
    filled[:, :channels] = values
    out: dict[str, npt.NDArray[Any]] = {
        "table": table, "bias": bias, "slope": slope, "spread": spread, "offset": offset, "values": filled
    }  # fmt: skip
    if kernels.screens:
        out.update(half_tables(table, bias, slope if query else None, query))
    for shape in spec.scale_shapes:
        for size, side in zip(spec.latent_shape, shape, strict=True):
            # The same along both sides of a square, whose tables of older bundles' kernels have these names too.
            out.update(zip(tap_tables(spec, size, side), upsample_taps(size, side), strict=True))
    return out


def tap_tables(spec: Spec, size: int, side: int) -> tuple[str, str]:
    """Return what the tables of taps and weights from `side` to `size` points are called."""
    name = f"{side}" if spec.is_square else f"{side}.{size}"
    return f"taps.{name}", f"weights.{name}"
