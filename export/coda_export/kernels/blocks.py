"""How the kernels cut their work, and the specialisations that a tokenizer needs.

The numbers of `DEFAULT_BLOCKS` were chosen by time on an H100, with 16 channels: docs/gpu.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from coda_runtime.backends.ptx.kernel_set import latent_sizes, padded_channels
from coda_runtime.backends.ptx.plan import widest_window
from coda_runtime.backends.ptx.screening import GROUPS, STEP
from coda_runtime.format.spec import Spec


@dataclass(frozen=True)
class SearchBlock:
    """Tokens and codes a step of the search, warps a block, and stages of its software pipeline."""

    tokens: int
    codes: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class MergeBlock:
    """The most splits a kernel can merge, and tokens a block."""

    splits: int
    tokens: int


@dataclass(frozen=True)
class SettleBlock:
    """The most splits a kernel can settle; tokens a block, and warps."""

    splits: int
    tokens: int = 1
    warps: int = 1


@dataclass(frozen=True)
class Blocks:
    """All sizes are powers of two.

    `search` and `merge` hold one kernel each for scales of few tokens, whose table is split among many blocks, and for
    scales of more; `screen` and `settle` are for scales of many. `pool_places` is how many positions of the latent a
    block of the pooling reads at least.
    """

    search: tuple[SearchBlock, ...]
    merge: tuple[MergeBlock, ...]
    screen: tuple[SearchBlock, ...]
    settle: tuple[SettleBlock, ...]
    pool_places: int
    points: int


DEFAULT_BLOCKS = Blocks(
    search=(SearchBlock(16, 256), SearchBlock(64, 64)),
    merge=(MergeBlock(splits=256, tokens=4), MergeBlock(splits=16, tokens=64)),
    screen=(SearchBlock(64, 64, warps=2, stages=3),),
    settle=(SettleBlock(splits=64), SettleBlock(splits=32), SettleBlock(splits=16)),
    pool_places=64,
    points=64,
)


def default_blocks(channels: int) -> Blocks:
    """Return DEFAULT_BLOCKS, of which a latent of more than 32 channels takes less at a time.

    Keys of the table lie in shared memory with all their channels, of which a block has 48 KiB without asking for more.
    """
    times = -(-padded_channels(channels) // 32)
    if times == 1:
        return DEFAULT_BLOCKS
    few, many = DEFAULT_BLOCKS.search
    (screen,) = DEFAULT_BLOCKS.screen
    return replace(
        DEFAULT_BLOCKS,
        search=(replace(few, codes=few.codes // times), replace(many, codes=many.codes * 2 // times)),
        screen=(replace(screen, stages=max(1, screen.stages - times // 2)),),
    )


@dataclass(frozen=True)
class Specialisation:
    """A function of `source` with its constants."""

    function: str
    sizes: dict[str, int]
    warps: int = 4
    stages: int = 2


def specialise(spec: Spec, query: int = 0, blocks: Blocks | None = None) -> tuple[Specialisation, ...]:
    """Return the kernels that `spec` needs, in a fixed order. `query` is d where a LayerNorm needs it, or else 0."""
    blocks = default_blocks(spec.latent_channels) if blocks is None else blocks
    latent = {
        **latent_sizes(spec),
        "CHANNELS": spec.latent_channels,
        "CHANNELS_PADDED": padded_channels(spec.latent_channels),
    }
    step = max(STEP, *(block.codes for block in blocks.search))
    codes = {"CODES": -(-spec.vocab_size // step) * step, "CHANNELS_PADDED": latent["CHANNELS_PADDED"]}
    windows = sorted({_power_of_two(widest_window(spec, shape)) for shape in spec.scale_shapes})
    kind = "" if spec.is_square else "_rectangle"
    out = [
        Specialisation(f"pool{kind}", {"WINDOW": wide, "BLOCK_TOKENS": max(1, blocks.pool_places // wide**2), **latent})
        for wide in windows
    ]
    queries = {"QUERY": query, "QUERY_PADDED": max(16, _power_of_two(query))}
    out += [
        Specialisation(
            "search",
            {"BLOCK_TOKENS": block.tokens, "BLOCK_CODES": block.codes, **codes, **queries},
            block.warps,
            block.stages,
        )
        for block in blocks.search
    ]
    out += [
        Specialisation(
            "merge", {"SPLITS": block.splits, "BLOCK_TOKENS": block.tokens, "LENGTH": spec.num_tokens, **codes}
        )
        for block in blocks.merge
    ]
    halves = {"STEP": STEP, "GROUPS": GROUPS, **codes, **queries}
    out += [
        Specialisation(
            "screen", {"BLOCK_TOKENS": it.tokens, "BLOCK_CODES": it.codes, **halves}, it.warps, it.stages
        )
        for it in blocks.screen
    ]  # fmt: skip
    out += [
        Specialisation(
            "settle",
            {"SPLITS": it.splits, "BLOCK_TOKENS": it.tokens, "LENGTH": spec.num_tokens, **halves},
            it.warps,
        )
        for it in blocks.settle
    ]
    out.append(Specialisation(f"subtract{kind}", {"BLOCK_POINTS": blocks.points, **latent}))
    return tuple(out)


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
