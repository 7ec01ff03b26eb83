"""The search table in halves, for the tensor cores; how wrong its scores can be; and how to share it among blocks.

docs/folding.md has the proof of the bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ...codes.search_tables import Float32

STEP = 256
"""Codes of a chunk of the table."""
GROUPS = 8
"""Groups of codes a chunk: a group's codes stand one after the other in the table."""
FROM_TOKENS = 128
"""From how many tokens on screening is faster than the search in float32."""
_LARGEST = 1024.0
"""The largest weight after scaling, or up to half of it: far from a half's overflow, and from its denormals."""
_SUM = 2.0**-21
"""What one addition of the tensor cores may lose, as a share of what is added; float32's loses 2^-24."""
_WARM_UP = 3
"""What a block costs before its first chunk and after its last, in chunks."""
_RECORD, _SETTLE = 0.0024, 0.08
"""What the results of a block cost, which are written and read again, and those of a split to one token, in chunks."""


def column_order(codes: int) -> npt.NDArray[np.int64]:
    """Return the code of every column of the table in halves, int64 [codes]; `codes` is a multiple of STEP.

    A tensor core gives a thread every eighth column. They are ordered so that what it holds of a chunk are groups.
    """
    column = np.arange(STEP)
    order = column % GROUPS * (STEP // GROUPS) + column // GROUPS
    return (np.arange(0, codes, STEP)[:, None] + order).reshape(-1)


def half_tables(table: Float32, bias: Float32, slope: Float32 | None, query: int) -> dict[str, npt.NDArray[Any]]:
    """Return "halves" float16 [C, CODES], "biases" and "slopes" float32 [CODES], "bounds" float32 [5].

    `table` is float32 [C, CODES], `bias` and `slope` float32 [CODES]; a code whose bias is minus infinity is none.
    All are multiplied by one power of two, which moves no maximum. The bounds are, for the screening's error: the
    longest row of a code, the longest row of what halves lose of a code, the share that sums lose, and the largest bias
    and slope, by magnitude.
    """
    channels, codes = table.shape
    largest = float(np.abs(table).max())
    scale = 2.0 ** math.floor(math.log2(_LARGEST / largest)) if largest > 0 and math.isfinite(largest) else 1.0
    scaled = table.astype(np.float64) * scale
    halves = scaled.astype(np.float16)
    order = column_order(codes)
    biases = (bias.astype(np.float64) * scale).astype(np.float32)
    slopes = np.zeros(1, np.float32) if slope is None else (slope.astype(np.float64) * scale).astype(np.float32)
    real = np.isfinite(biases)
    largest_bias = np.abs(biases[real]).max() if real.any() else 0.0
    # A table that is not finite has bounds that are not: then nothing is taken from what is screened.
    with np.errstate(invalid="ignore"):
        bounds = np.array(
            [
                np.linalg.norm(scaled, axis=0).max(),
                np.linalg.norm(scaled - halves, axis=0).max(),
                (channels + query + 4) * _SUM,
                # A little more than nothing, for what is lost to underflow.
                largest_bias + 2.0**-60,
                np.abs(slopes).max(),
            ]
        )
    # Rounded to float32, none may become less.
    above = np.nextafter(bounds.astype(np.float32), np.float32(np.inf))
    return {
        "halves": np.ascontiguousarray(halves[:, order]),
        "biases": biases[order],
        "slopes": slopes if slope is None else slopes[order],
        "bounds": above,
    }


def share(blocks: int, chunks: int, places: int, limit: int) -> tuple[int, int]:
    """Return how many splits of the table there are, at most `limit`, and of how many chunks each.

    `blocks` are needed for the tokens, `places` are how many run at once. All splits but the last are equal. Of all
    counts the one is taken that should end first, which is one whose last wave of blocks is nearly full.
    """

    def end(splits: int) -> float:
        each = -(-chunks // splits)
        waves = blocks * -(-chunks // each) / places
        # Blocks of several waves do not begin at once, so that the last wave is late by half of its empty places only.
        records = (_RECORD * blocks + _SETTLE) * splits
        return (0.5 * (waves + math.ceil(waves)) + 0.5) * (each + _WARM_UP) + records

    each = -(-chunks // min(range(1, min(limit, chunks) + 1), key=end))
    return -(-chunks // each), each
