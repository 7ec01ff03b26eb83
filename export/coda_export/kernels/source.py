"""The quantizer's GPU kernels, in Triton, float32 throughout: pool, search, merge, subtract, once for every scale.

The logits live in registers: of every token, a program of `search` writes one score and one code. Ties go to the lowest
code everywhere, as in argmax. `coda_runtime.backends.ptx.plan` says which kernel is launched when, and with what.
"""

# Triton reads annotations as objects, so there is no `from __future__ import annotations`; it has no types of its own.
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def _named(kernel: str, **letters: str) -> Callable[[Any], str]:
    """Give each specialisation an entry name of its own, such as ``coda_search_m64_n64``, for profilers to show."""

    def name(specialization: Any) -> str:
        sizes = (f"{letter}{int(specialization.constants[size])}" for letter, size in letters.items())
        return "_".join(["coda", kernel, *sizes])

    return name


@triton.jit(repr=_named("pool", w="WINDOW", t="BLOCK_TOKENS"))
def pool(
    residual,  # float32 [B, C, h, h]
    rows,  # float32 [B * side * side, CHANNELS_PADDED], written
    tokens,  # B * side * side
    side,
    WINDOW: tl.constexpr,  # a power of two, at least as wide as the widest window of this side
    BLOCK_TOKENS: tl.constexpr,
    SIZE: tl.constexpr,  # h
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Pool by adaptive averages: the window of position i covers [floor(i h / side), ceil((i + 1) h / side))."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    image, place = token // (side * side), token % (side * side)
    row, column = place // side, place % side
    top, left = row * SIZE // side, column * SIZE // side
    height = ((row + 1) * SIZE + side - 1) // side - top
    width = ((column + 1) * SIZE + side - 1) // side - left
    cell = tl.arange(0, WINDOW * WINDOW)
    down, across = cell // WINDOW, cell % WINDOW
    inside = (token < tokens)[:, None] & (down[None, :] < height[:, None]) & (across[None, :] < width[:, None])
    offset = (top[:, None] + down[None, :]) * SIZE + left[:, None] + across[None, :]
    channel = tl.arange(0, CHANNELS_PADDED)
    plane = image[:, None] * CHANNELS + channel[None, :]
    pointers = residual + plane[:, :, None] * (SIZE * SIZE) + offset[:, None, :]
    values = tl.load(pointers, mask=inside[:, None, :] & (channel < CHANNELS)[None, :, None], other=0.0)
    mean = tl.div_rn(tl.sum(values, 2), (height * width).to(tl.float32)[:, None])
    to = rows + token[:, None] * CHANNELS_PADDED + channel[None, :]
    tl.store(to, mean, mask=(token < tokens)[:, None])


@triton.jit(repr=_named("search", m="BLOCK_TOKENS", n="BLOCK_CODES"))
def search(
    rows,  # float32 [tokens, CHANNELS_PADDED]
    table,  # float32 [CHANNELS_PADDED, CODES]: A without its last features, transposed
    bias,  # float32 [CODES]: the weight of the feature 1; -inf for the codes that fill CODES up
    slope,  # float32 [CODES]: the weight of the standard deviation; read only where QUERY is not 0
    spread,  # float32 [CHANNELS_PADDED, QUERY_PADDED]: the centred query of t; as slope
    offset,  # float32 [QUERY_PADDED]: the centred query of 1; as slope
    eps,  # float32: as slope
    scores,  # float32 [tokens, splits], written
    codes,  # int32 [tokens, splits], written
    tokens,
    splits,
    chunks,  # of BLOCK_CODES codes each, for every split
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    CODES: tl.constexpr,  # V, filled up to a multiple of BLOCK_CODES
    CHANNELS_PADDED: tl.constexpr,
    QUERY: tl.constexpr,  # d, or 0 where no LayerNorm needs the standard deviation
    QUERY_PADDED: tl.constexpr,
):
    """Find the best code of every token within one split of the table."""
    split = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    channel = tl.arange(0, CHANNELS_PADDED)
    here = (token < tokens)[:, None]
    row = tl.load(rows + token[:, None] * CHANNELS_PADDED + channel[None, :], mask=here, other=0.0)
    column = tl.arange(0, BLOCK_CODES)
    std = tl.zeros([BLOCK_TOKENS], tl.float32)
    if QUERY > 0:
        feature = tl.arange(0, QUERY_PADDED)
        weights = tl.load(spread + channel[:, None] * QUERY_PADDED + feature[None, :])
        query = tl.dot(row, weights, input_precision="ieee") + tl.load(offset + feature)[None, :]
        length = tl.full([BLOCK_TOKENS], QUERY, tl.float32)
        std = tl.sqrt_rn(tl.div_rn(tl.sum(query * query, 1), length) + eps)
    # Every column keeps its own best over the chunks, so that one reduction at the end is enough.
    best = tl.full([BLOCK_TOKENS, BLOCK_CODES], float("-inf"), tl.float32)
    found = tl.zeros([BLOCK_TOKENS, BLOCK_CODES], tl.int32)
    first = split * chunks * BLOCK_CODES
    last = tl.minimum(first + chunks * BLOCK_CODES, CODES)
    for start in range(first, last, BLOCK_CODES):
        keys = tl.load(table + channel[:, None] * CODES + (start + column)[None, :])
        score = tl.dot(row, keys, input_precision="ieee") + tl.load(bias + start + column)[None, :]
        if QUERY > 0:
            score += std[:, None] * tl.load(slope + start + column)[None, :]
        better = score > best
        best = tl.where(better, score, best)
        found = tl.where(better, start, found)
    top = tl.max(best, 1)
    # The lowest code among equals; a column's index says nothing about it, since columns may have won in other chunks.
    code = tl.min(tl.where(best == top[:, None], found + column[None, :], CODES), 1)
    to = token * splits + split
    tl.store(scores + to, top, mask=token < tokens)
    tl.store(codes + to, code, mask=token < tokens)


@triton.jit(repr=_named("merge", s="SPLITS", t="BLOCK_TOKENS"))
def merge(
    scores,  # float32 [tokens, splits]
    codes,  # int32 [tokens, splits]
    values,  # float32 [V, CHANNELS_PADDED]
    ids,  # int32 [B, LENGTH], written at this scale's positions
    grid,  # float32 [tokens, CHANNELS_PADDED], written: the values of the ids
    tokens,
    splits,
    places,  # tokens an image at this scale
    start,  # this scale's first position among an image's ids
    SPLITS: tl.constexpr,  # a power of two, at least `splits`
    BLOCK_TOKENS: tl.constexpr,
    LENGTH: tl.constexpr,  # L
    CODES: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Find the best of the splits, its id and its value."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    here = token < tokens
    split = tl.arange(0, SPLITS)
    at = token[:, None] * splits + split[None, :]
    valid = here[:, None] & (split < splits)[None, :]
    score = tl.load(scores + at, mask=valid, other=float("-inf"))
    code = tl.load(codes + at, mask=valid, other=CODES)
    top = tl.max(score, 1)
    best = tl.min(tl.where(score == top[:, None], code, CODES), 1)
    # Past the last token there is none, and its value is read all the same.
    best = tl.where(here, best, 0)
    tl.store(ids + token // places * LENGTH + start + token % places, best, mask=here)
    channel = tl.arange(0, CHANNELS_PADDED)
    value = tl.load(values + best[:, None] * CHANNELS_PADDED + channel[None, :])
    tl.store(grid + token[:, None] * CHANNELS_PADDED + channel[None, :], value, mask=here[:, None])


@triton.jit(repr=_named("subtract", p="BLOCK_POINTS"))
def subtract(
    before,  # float32 [B, C, h, h]: the residual
    grid,  # float32 [B * side * side, CHANNELS_PADDED]
    taps,  # int32 [4, h]: the positions of a side that a point of the latent is made from
    weights,  # float32 [4, h]
    after,  # float32 [B, C, h, h], written; may be `before`
    points,  # B * h * h
    side,
    BLOCK_POINTS: tl.constexpr,
    SIZE: tl.constexpr,  # h
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Take the bicubic upsampling of a scale's values from the residual."""
    point = tl.program_id(0) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    here = point < points
    image, place = point // (SIZE * SIZE), point % (SIZE * SIZE)
    row, column = place // SIZE, place % SIZE
    channel = tl.arange(0, CHANNELS_PADDED)
    total = tl.zeros([BLOCK_POINTS, CHANNELS_PADDED], tl.float32)
    for i in tl.static_range(4):
        line = image * side + tl.load(taps + i * SIZE + row)
        across = tl.zeros([BLOCK_POINTS, CHANNELS_PADDED], tl.float32)
        for j in tl.static_range(4):
            token = line * side + tl.load(taps + j * SIZE + column)
            value = tl.load(grid + token[:, None] * CHANNELS_PADDED + channel[None, :], mask=here[:, None], other=0.0)
            across += tl.load(weights + j * SIZE + column)[:, None] * value
        total += tl.load(weights + i * SIZE + row)[:, None] * across
    at = (image[:, None] * CHANNELS + channel[None, :]) * (SIZE * SIZE) + place[:, None]
    mask = here[:, None] & (channel < CHANNELS)[None, :]
    tl.store(after + at, tl.load(before + at, mask=mask, other=0.0) - total, mask=mask)


@triton.jit(repr=_named("pool_rectangle", w="WINDOW", t="BLOCK_TOKENS"))
def pool_rectangle(
    residual,  # float32 [B, C, HEIGHT, WIDTH]
    rows,  # float32 [B * down * across, CHANNELS_PADDED], written
    tokens,  # B * down * across
    down,  # positions of the scale along the height
    across,  # and along the width
    WINDOW: tl.constexpr,  # a power of two, at least as wide as the widest window of this scale along either side
    BLOCK_TOKENS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Do as `pool` does, of a latent or to a scale that is no square."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    image, place = token // (down * across), token % (down * across)
    row, column = place // across, place % across
    top, left = row * HEIGHT // down, column * WIDTH // across
    height = ((row + 1) * HEIGHT + down - 1) // down - top
    width = ((column + 1) * WIDTH + across - 1) // across - left
    cell = tl.arange(0, WINDOW * WINDOW)
    y, x = cell // WINDOW, cell % WINDOW
    inside = (token < tokens)[:, None] & (y[None, :] < height[:, None]) & (x[None, :] < width[:, None])
    offset = (top[:, None] + y[None, :]) * WIDTH + left[:, None] + x[None, :]
    channel = tl.arange(0, CHANNELS_PADDED)
    plane = image[:, None] * CHANNELS + channel[None, :]
    pointers = residual + plane[:, :, None] * (HEIGHT * WIDTH) + offset[:, None, :]
    values = tl.load(pointers, mask=inside[:, None, :] & (channel < CHANNELS)[None, :, None], other=0.0)
    mean = tl.div_rn(tl.sum(values, 2), (height * width).to(tl.float32)[:, None])
    to = rows + token[:, None] * CHANNELS_PADDED + channel[None, :]
    tl.store(to, mean, mask=(token < tokens)[:, None])


@triton.jit(repr=_named("subtract_rectangle", p="BLOCK_POINTS"))
def subtract_rectangle(
    before,  # float32 [B, C, HEIGHT, WIDTH]: the residual
    grid,  # float32 [B * down * across, CHANNELS_PADDED]
    row_taps,  # int32 [4, HEIGHT]: the rows of a scale that a row of the latent is made from
    row_weights,  # float32 [4, HEIGHT]
    column_taps,  # int32 [4, WIDTH]: the same of columns
    column_weights,  # float32 [4, WIDTH]
    after,  # float32 [B, C, HEIGHT, WIDTH], written; may be `before`
    points,  # B * HEIGHT * WIDTH
    down,
    across,
    BLOCK_POINTS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Do as `subtract` does, of a latent or for a scale that is no square."""
    point = tl.program_id(0) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    here = point < points
    image, place = point // (HEIGHT * WIDTH), point % (HEIGHT * WIDTH)
    row, column = place // WIDTH, place % WIDTH
    channel = tl.arange(0, CHANNELS_PADDED)
    total = tl.zeros([BLOCK_POINTS, CHANNELS_PADDED], tl.float32)
    for i in tl.static_range(4):
        line = image * down + tl.load(row_taps + i * HEIGHT + row)
        sums = tl.zeros([BLOCK_POINTS, CHANNELS_PADDED], tl.float32)
        for j in tl.static_range(4):
            token = line * across + tl.load(column_taps + j * WIDTH + column)
            value = tl.load(grid + token[:, None] * CHANNELS_PADDED + channel[None, :], mask=here[:, None], other=0.0)
            sums += tl.load(column_weights + j * WIDTH + column)[:, None] * value
        total += tl.load(row_weights + i * HEIGHT + row)[:, None] * sums
    at = (image[:, None] * CHANNELS + channel[None, :]) * (HEIGHT * WIDTH) + place[:, None]
    mask = here[:, None] & (channel < CHANNELS)[None, :]
    tl.store(after + at, tl.load(before + at, mask=mask, other=0.0) - total, mask=mask)
