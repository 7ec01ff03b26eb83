"""Seconds of a launch plan, kernel by kernel. A model's figures: `check` says how far they are from measured ones.

A block of the search does its chunks in a loop. A chunk keeps a scheduler busy for as long as its slowest pipe: the
issue of one instruction a cycle, or the float32, comparison or tensor pipe. Blocks that run together share the
schedulers; the last wave of blocks may fill some of the places only, and one block alone is bound by latency.
Everything else moves bytes, and costs a node of the graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.kernel_model.assembly import Assembled
from benchmarks.kernel_model.gpus import EFFICIENCY, Chip
from coda_runtime.backends.ptx import Launch, Plan

NODE = 2.2e-6
"""Seconds of a node of a graph that waits for the one before it: about 1 us between the two, and two trips to
memory one after the other (0.6 us each). On an H100 the smallest kernels take 2.2 to 2.8 us in a chain."""
TRIP = 1200
"""Cycles of a block before its loop and after it: a trip to memory each, and the reduction."""
ALONE = 1.6
"""Cycles an instruction where one warp alone uses a scheduler: its own results are not there yet."""

_ALU = re.compile(r"FSETP|FSEL|SEL|FMNMX|ISETP|IMNMX|VIMNMX|LOP3|PLOP3|IADD3|SHF|PRMT|I2F|F2F|VIADD")
_FMA = re.compile(r"FFMA|FMUL|FADD|IMAD")
_TENSOR = re.compile(r"HMMA")
WARPS_AT_ONCE = 4
"""Schedulers of a multiprocessor."""


@dataclass(frozen=True)
class Loop:
    """Cycles that one warp's turn of the main loop keeps a scheduler's pipes busy, and instructions in it."""

    instructions: int
    busy: float

    @classmethod
    def of(cls, code: Assembled, chip: Chip) -> Loop:
        """Count the loop of a search."""
        found = [code.instructions[place] for place in code.loop]

        def count(pattern: re.Pattern[str]) -> int:
            return sum(pattern.match(instruction) is not None for instruction in found)

        pipes = (len(found), chip.fma * count(_FMA), chip.alu * count(_ALU), chip.tensor * count(_TENSOR))
        return cls(len(found), max(pipes))


@dataclass(frozen=True)
class Search:
    """One launch of the search. `fill` is the share of the places in its waves that blocks take."""

    tokens: int
    blocks: int
    resident: int
    waves: float
    fill: float
    seconds: float


def search_launch(launch: Launch, code: Assembled, chip: Chip) -> Search:
    """Model a launch of the search, in float32 or by halves."""
    kernel = launch.kernel
    values = dict(zip((name for name, _ in kernel.arguments), launch.arguments, strict=True))
    chunks, tokens = values["chunks"], values["tokens"]
    assert isinstance(chunks, int)
    assert isinstance(tokens, int)
    loop, blocks = Loop.of(code, chip), launch.grid[0] * launch.grid[1]
    resident = code.blocks(chip.capability, kernel.warps, kernel.shared)
    places = chip.processors * resident
    full, left = divmod(blocks, places)
    cycles = full * _wave(loop, kernel.warps, resident, chunks)
    cycles += _wave(loop, kernel.warps, math.ceil(left / chip.processors), chunks)
    return Search(
        tokens, blocks, resident, blocks / places, blocks / (math.ceil(blocks / places) * places), cycles / chip.clock
    )


def _wave(loop: Loop, warps: int, together: int, chunks: int) -> float:
    """Return cycles of so many blocks together on a multiprocessor."""
    if not together:
        return 0.0
    shared = together * warps / WARPS_AT_ONCE * loop.busy / EFFICIENCY
    return TRIP + chunks * max(shared, ALONE * loop.instructions)


@dataclass(frozen=True)
class Prediction:
    """Seconds of a batch: all of it, of the searches alone, and of the nodes of the graph."""

    seconds: float
    searches: tuple[Search, ...]
    nodes: int


def predict(plan: Plan, codes: Mapping[str, Assembled], chip: Chip) -> Prediction:
    """Model a plan; `codes` are the searches' machine code by entry."""
    searches, moved = [], 0
    for launch in plan.launches:
        if launch.kernel.function in ("search", "screen"):
            searches.append(search_launch(launch, codes[launch.kernel.entry], chip))
        else:
            moved += _bytes(launch, plan)
    seconds = sum(search.seconds for search in searches) + moved / (EFFICIENCY * chip.bandwidth)
    return Prediction(seconds + NODE * len(plan.launches), tuple(searches), len(plan.launches))


def _bytes(launch: Launch, plan: Plan) -> int:
    """Return the bytes that a launch moves: of its buffers, or of what is settled: results, and a group a token."""
    kernel = launch.kernel
    if kernel.function == "settle":
        values = dict(zip((name for name, _ in kernel.arguments), launch.arguments, strict=True))
        tokens, splits = int(values["tokens"]), int(values["splits"])
        sizes = kernel.sizes
        results = 2 * 3 * 4 * splits * sizes["GROUPS"]
        return tokens * (results + 4 * sizes["STEP"] // sizes["GROUPS"] * (sizes["CHANNELS_PADDED"] + 1))
    return sum(plan.buffers[name].bytes for name in set(map(str, launch.arguments)) & {*plan.buffers})
