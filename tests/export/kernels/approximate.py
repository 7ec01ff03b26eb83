"""Kernels in place of `pool` that divide and take roots as Triton does unless it is asked for more."""

# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
import triton
import triton.language as tl


@triton.jit
def divide(
    residual,
    rows,
    tokens,
    side,
    WINDOW: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Divide by a number that is known at the launch."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    tl.store(rows + token, tl.load(residual + token) / side.to(tl.float32), mask=token < tokens)


@triton.jit
def root(
    residual,
    rows,
    tokens,
    side,
    WINDOW: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """Take a root."""
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    tl.store(rows + token, tl.sqrt(tl.load(residual + token)), mask=token < tokens)
