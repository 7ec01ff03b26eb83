"""The kernels that pool a latent to a scale's tokens and take its upsampled values away, in Triton.

Those of squares know one side, those of rectangles two; the work is written once and compiled into each, which costs a
square nothing.
"""

# Triton reads annotations as objects, so there is no `from __future__ import annotations`; it has no types of its own.
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
import triton
import triton.language as tl

from coda_export.kernels.naming import named


@triton.jit
def _pool(
    residual,
    rows,
    tokens,
    down,
    across,
    WINDOW: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Pool by adaptive averages: the window of row i covers [floor(i HEIGHT / down), ceil((i + 1) HEIGHT / down))."""
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


@triton.jit(repr=named("pool", w="WINDOW", t="BLOCK_TOKENS"))
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
    """Pool a square latent to a square scale."""
    _pool(residual, rows, tokens, side, side, WINDOW, BLOCK_TOKENS, SIZE, SIZE, CHANNELS, CHANNELS_PADDED)


@triton.jit(repr=named("pool_rectangle", w="WINDOW", t="BLOCK_TOKENS"))
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
    """Pool a latent or to a scale that is no square."""
    _pool(residual, rows, tokens, down, across, WINDOW, BLOCK_TOKENS, HEIGHT, WIDTH, CHANNELS, CHANNELS_PADDED)


@triton.jit
def _subtract(
    before,
    grid,
    row_taps,
    row_weights,
    column_taps,
    column_weights,
    after,
    points,
    down,
    across,
    BLOCK_POINTS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Take the bicubic upsampling of a scale's values from the residual."""
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


@triton.jit(repr=named("subtract", p="BLOCK_POINTS"))
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
    """Take a square scale's values from a square residual."""
    _subtract(
        before, grid, taps, weights, taps, weights, after, points, side, side, BLOCK_POINTS, SIZE, SIZE, CHANNELS,
        CHANNELS_PADDED,
    )  # fmt: skip


@triton.jit(repr=named("subtract_rectangle", p="BLOCK_POINTS"))
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
    _subtract(
        before, grid, row_taps, row_weights, column_taps, column_weights, after, points, down, across, BLOCK_POINTS,
        HEIGHT, WIDTH, CHANNELS, CHANNELS_PADDED,
    )  # fmt: skip
