"""The quantizer's GPU kernels, in Triton: pool, search, merge, subtract, once for every scale; ids are float32's.

The logits live in registers: of every token, a program of `search` writes one score and one code. Where tokens are
many, `screen` and `settle` do the same: the first names groups of codes by products of halves on the tensor cores, the
second scores in float32 whatever could be the best, so that what halves lose changes no id. Ties go to the lowest code
everywhere, as in argmax. `coda_runtime.backends.ptx.plan` says which kernel is launched when, and with what.
"""

# Triton reads annotations as objects, so there is no `from __future__ import annotations`; it has no types of its own.
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
import triton
import triton.language as tl

from coda_export.kernels.naming import named
from coda_export.kernels.sampling import pool, pool_rectangle, subtract, subtract_rectangle

__all__ = ["merge", "pool", "pool_rectangle", "screen", "search", "settle", "subtract", "subtract_rectangle"]


@triton.jit(repr=named("search", m="BLOCK_TOKENS", n="BLOCK_CODES"))
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
        # The sums begin with the bias.
        score = tl.broadcast_to(tl.load(bias + start + column)[None, :], [BLOCK_TOKENS, BLOCK_CODES])
        score = tl.dot(row, keys, score, input_precision="ieee")
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


@triton.jit(repr=named("merge", s="SPLITS", t="BLOCK_TOKENS"))
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


@triton.jit
def _deviation(
    rows,
    spread,
    offset,
    eps,
    token,
    here,
    QUERY: tl.constexpr,
    QUERY_PADDED: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Compute the standard deviation of each token's query, float32."""
    feature = tl.arange(0, QUERY_PADDED)
    query = tl.zeros([token.shape[0], QUERY_PADDED], tl.float32)
    for first in tl.range(0, CHANNELS_PADDED, 16, num_stages=1):  # see `_exact`
        for k in tl.static_range(16):
            number = tl.load(rows + token * CHANNELS_PADDED + first + k, mask=here, other=0.0)
            query += number[:, None] * tl.load(spread + (first + k) * QUERY_PADDED + feature)[None, :]
    query += tl.load(offset + feature)[None, :]
    length = tl.full([token.shape[0]], QUERY, tl.float32)
    return tl.sqrt_rn(tl.div_rn(tl.sum(query * query, 1), length) + eps)


@triton.jit(repr=named("screen", m="BLOCK_TOKENS", n="BLOCK_CODES"))
def screen(
    rows,  # float32 [tokens, CHANNELS_PADDED]
    halves,  # float16 [CHANNELS_PADDED, CODES]: A without its last features, scaled, transposed, its columns in order
    biases,  # float32 [CODES]: the weight of the feature 1, likewise; -inf for the codes that fill CODES up
    slopes,  # float32 [CODES]: the weight of the standard deviation, likewise; read only where QUERY is not 0
    spread,  # float32 [CHANNELS_PADDED, QUERY_PADDED]: the centred query of t; as slopes
    offset,  # float32 [QUERY_PADDED]: the centred query of 1; as slopes
    eps,  # float32: as slopes
    scores,  # float32 [tokens, splits, GROUPS], written: of every class its best group's score, roughly
    groups,  # int32 [tokens, splits, GROUPS], written: the first code of that group
    others,  # float32 [tokens, splits, GROUPS], written: the best of the class's other groups, roughly
    tokens,
    splits,
    chunks,  # of STEP codes each, for every split
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,  # codes of one product; they divide STEP
    STEP: tl.constexpr,  # codes of a chunk
    GROUPS: tl.constexpr,  # groups of codes a chunk; those at the same place of all chunks are a class
    CODES: tl.constexpr,  # V, filled up to a multiple of STEP
    CHANNELS_PADDED: tl.constexpr,
    QUERY: tl.constexpr,  # d, or 0 where no LayerNorm needs the standard deviation
    QUERY_PADDED: tl.constexpr,
):
    """Find the groups of codes of one split that may hold a token's best one, by products of halves."""
    split = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    channel = tl.arange(0, CHANNELS_PADDED)
    here = token < tokens
    row = tl.load(rows + token[:, None] * CHANNELS_PADDED + channel[None, :], mask=here[:, None], other=0.0)
    half = row.to(tl.float16)
    std = tl.zeros([BLOCK_TOKENS], tl.float32)
    if QUERY > 0:
        std = _deviation(rows, spread, offset, eps, token, here, QUERY, QUERY_PADDED, CHANNELS_PADDED)
    column, place = tl.arange(0, BLOCK_CODES), tl.arange(0, GROUPS)
    best = tl.full([BLOCK_TOKENS, GROUPS], float("-inf"), tl.float32)
    other = tl.full([BLOCK_TOKENS, GROUPS], float("-inf"), tl.float32)
    found = tl.zeros([BLOCK_TOKENS, GROUPS], tl.int32)
    first = split * chunks * STEP
    last = tl.minimum(first + chunks * STEP, CODES)
    for start in range(first, last, STEP):
        high = tl.full([BLOCK_TOKENS, GROUPS], float("-inf"), tl.float32)
        for part in tl.static_range(STEP // BLOCK_CODES):
            at = part * BLOCK_CODES + column
            keys = tl.load(halves + start + (channel[:, None] * CODES + at[None, :]))
            # The sums begin with the bias.
            bias = tl.broadcast_to(tl.load(biases + start + at)[None, :], [BLOCK_TOKENS, BLOCK_CODES])
            score = tl.dot(half, keys, bias)
            if QUERY > 0:
                score += std[:, None] * tl.load(slopes + start + at)[None, :]
            # Every thread holds whole groups, so that no two have to meet.
            apart = tl.reshape(score, [BLOCK_TOKENS, BLOCK_CODES // GROUPS, GROUPS])
            high = tl.maximum(high, tl.max(apart, 1))
        other = tl.maximum(other, tl.minimum(best, high))
        found = tl.where(high > best, start, found)
        best = tl.maximum(best, high)
    to = (token * splits + split)[:, None] * GROUPS + place[None, :]
    tl.store(scores + to, best, mask=here[:, None])
    tl.store(groups + to, found + place[None, :] * (STEP // GROUPS), mask=here[:, None])
    tl.store(others + to, other, mask=here[:, None])


@triton.jit
def _exact(
    rows,
    table,
    bias,
    slope,
    std,
    token,
    here,
    codes,
    CODES: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    QUERY: tl.constexpr,
):
    """Return the best float32 score of codes, int32 [tokens, any], and its code: additions in the order of `search`."""
    score = tl.load(bias + codes)
    # Sixteen at a time: written out whole, 64 channels take Triton over five minutes.
    for first in tl.range(0, CHANNELS_PADDED, 16, num_stages=1):
        for k in tl.static_range(16):
            number = tl.load(rows + token * CHANNELS_PADDED + first + k, mask=here, other=0.0)
            score += number[:, None] * tl.load(table + (first + k) * CODES + codes)
    if QUERY > 0:
        score += std[:, None] * tl.load(slope + codes)
    high = tl.max(score, 1)
    return high, tl.min(tl.where(score == high[:, None], codes, CODES), 1)


@triton.jit(repr=named("settle", s="SPLITS", t="BLOCK_TOKENS"))
def settle(
    rows,  # float32 [tokens, CHANNELS_PADDED]
    table,  # float32 [CHANNELS_PADDED, CODES]: A without its last features, transposed
    bias,  # float32 [CODES]: the weight of the feature 1; -inf for the codes that fill CODES up
    slope,  # float32 [CODES]: the weight of the standard deviation; read only where QUERY is not 0
    spread,  # float32 [CHANNELS_PADDED, QUERY_PADDED]; as slope
    offset,  # float32 [QUERY_PADDED]; as slope
    eps,  # float32: as slope
    bounds,  # float32 [5]: what a screened score can be wrong by, see `half_tables`
    scores,  # float32 [tokens, splits, GROUPS], and the next two: as `screen` wrote them
    groups,
    others,
    values,  # float32 [V, CHANNELS_PADDED]
    ids,  # int32 [B, LENGTH], written at this scale's positions
    grid,  # float32 [tokens, CHANNELS_PADDED], written: the values of the ids
    tokens,
    splits,
    chunks,
    places,  # tokens an image at this scale
    start,  # this scale's first position among an image's ids
    SPLITS: tl.constexpr,  # a power of two, at least `splits`
    BLOCK_TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    GROUPS: tl.constexpr,
    LENGTH: tl.constexpr,  # L
    CODES: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    QUERY: tl.constexpr,
    QUERY_PADDED: tl.constexpr,
):
    """Score every group in float32 that may hold the best code; find that, its id and its value."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    here = token < tokens
    entry, channel = tl.arange(0, SPLITS * GROUPS), tl.arange(0, CHANNELS_PADDED)
    valid = here[:, None] & (entry < splits * GROUPS)[None, :]
    at = token[:, None] * (splits * GROUPS) + entry[None, :]
    left = tl.load(scores + at, mask=valid, other=float("-inf"))
    group = tl.load(groups + at, mask=valid, other=0)
    other = tl.load(others + at, mask=valid, other=float("-inf"))
    std = tl.zeros([BLOCK_TOKENS], tl.float32)
    if QUERY > 0:
        std = _deviation(rows, spread, offset, eps, token, here, QUERY, QUERY_PADDED, CHANNELS_PADDED)
    row = tl.load(rows + token[:, None] * CHANNELS_PADDED + channel[None, :], mask=here[:, None], other=0.0)
    half = row.to(tl.float16).to(tl.float32)
    kept, lost = tl.sqrt_rn(tl.sum(half * half, 1)), tl.sqrt_rn(tl.sum((row - half) * (row - half), 1))
    length, rounded, share = tl.load(bounds), tl.load(bounds + 1), tl.load(bounds + 2)
    most = (kept + lost) * length + tl.load(bounds + 3) + std * tl.load(bounds + 4)
    # No score is off by more, as docs/folding.md proves; 1/16 of it is for what is rounded here.
    margin = (lost * length + kept * rounded + share * most) * 1.0625
    top = tl.max(left, 1)
    least = top - 2 * margin
    # False for what halves cannot hold, and for NaN: there nothing that was screened counts.
    sure = most < 1e30
    best = tl.full([BLOCK_TOKENS], float("-inf"), tl.float32)
    code = tl.zeros([BLOCK_TOKENS], tl.int32)
    inside = tl.arange(0, STEP // GROUPS)[None, :]
    todo = tl.where(here & sure & (top >= least), 1, 0)
    while tl.max(todo, 0) > 0:
        begin = tl.min(tl.where(left == top[:, None], group, CODES), 1)
        begin = tl.where(todo > 0, begin, 0)
        left = tl.where(group == begin[:, None], float("-inf"), left)
        codes = begin[:, None] + inside
        high, which = _exact(rows, table, bias, slope, std, token, here, codes, CODES, CHANNELS_PADDED, QUERY)
        better = (todo > 0) & ((high > best) | ((high == best) & (which < code)))
        best, code = tl.where(better, high, best), tl.where(better, which, code)
        top = tl.max(left, 1)
        todo = tl.where((todo > 0) & (top >= least), 1, 0)
    # Classes with two groups that may hold it, of which one alone is named, are scored whole. They are rare.
    doubtful = (other >= least[:, None]) | (sure == 0)[:, None]
    again = tl.where(valid & doubtful, entry[None, :], SPLITS * GROUPS)
    turn = tl.min(again, 1)
    wide = tl.arange(0, STEP)
    while tl.min(turn, 0) < SPLITS * GROUPS:
        doing = turn < SPLITS * GROUPS
        this = tl.where(doing, turn, 0)
        first = this // GROUPS * chunks * STEP + this % GROUPS * (STEP // GROUPS)
        # As many groups at once as make STEP codes.
        for chunk in range(0, chunks, GROUPS):
            codes = first[:, None] + chunk * STEP + (wide // (STEP // GROUPS) * STEP + wide % (STEP // GROUPS))[None, :]
            real = (codes < CODES) & (chunk + wide // (STEP // GROUPS) < chunks)[None, :]
            codes = tl.where(real, codes, 0)
            high, which = _exact(rows, table, bias, slope, std, token, here, codes, CODES, CHANNELS_PADDED, QUERY)
            better = doing & ((high > best) | ((high == best) & (which < code)))
            best, code = tl.where(better, high, best), tl.where(better, which, code)
        again = tl.where(again == turn[:, None], SPLITS * GROUPS, again)
        turn = tl.min(again, 1)
    tl.store(ids + token // places * LENGTH + start + token % places, code, mask=here)
    value = tl.load(values + code[:, None] * CHANNELS_PADDED + channel[None, :])
    tl.store(grid + token[:, None] * CHANNELS_PADDED + channel[None, :], value, mask=here[:, None])
