"""Seconds of a launch plan, kernel by kernel. A model's figures: ``--launches`` sets them beside measured ones.

A node of the graph costs its launch. A block of the search does its chunks in a loop: one warp alone takes as long as
its instructions and the trips to memory that nothing hides, and every further warp of a scheduler adds what its slowest
pipe takes. Blocks that run together share the schedulers; the last wave of blocks may fill some of the places only. A
warp that settles is one chain of trips to memory. Pooling, merging and subtracting issue instructions or move bytes.

What is called measured here is from an H100: benchmarks/results/kernel-h100-launches.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.kernel_model.assembly import Assembled
from benchmarks.kernel_model.gpus import EFFICIENCY, Chip
from coda_runtime.backends.ptx import Launch, Plan

NODE = 2.0e-6
"""Seconds of a node of a graph that waits for the one before it, and does next to nothing: measured of `merge`."""
TRIP = 260
"""Cycles of a trip to the second-level cache, where all tables lie."""
ALONE = 1.3
"""Cycles an instruction where one warp alone uses a scheduler: measured, of one block of the screening at a time."""
EXCHANGE = 23
"""Cycles until a warp has what another lane held."""
TURNS, MOST_TURNS = 1.05, 3
"""Groups that a token scores again, in the mean, and the token of a launch that has most (`rescored`)."""
WARPS_AT_ONCE = 4
"""Schedulers of a multiprocessor."""

_ALU = re.compile(r"FSETP|FSEL|SEL|FMNMX|ISETP|IMNMX|VIMNMX|LOP3|PLOP3|IADD3|SHF|PRMT|I2F|F2F|VIADD")
_FMA = re.compile(r"FFMA|FMUL|FADD|IMAD")
_WHOLE = re.compile(r"IMAD")
_TENSOR = re.compile(r"HMMA")
_LOAD = re.compile(r"LDG\b")
_EXCHANGE = re.compile(r"SHFL|REDUX")
_RESIDUALS = ("residual", "before", "after")


def count(pattern: re.Pattern[str], code: Assembled, places: Sequence[int]) -> int:
    """Count the instructions at `places` that begin with the pattern."""
    return sum(pattern.match(code.instructions[place]) is not None for place in places)


@dataclass(frozen=True)
class Loop:
    """A turn of a search's main loop.

    `busy` is how many cycles a warp keeps a scheduler's slowest pipe busy, `alone` how many the turn takes one warp
    that has the scheduler to itself; `around` the cycles of a block before its loop and after it.
    """

    busy: float
    alone: float
    around: float

    @classmethod
    def of(cls, code: Assembled, chip: Chip) -> Loop:
        """Count the loop of a search."""
        size = len(code.loop)
        fma, whole, alu, tensor = (count(it, code, code.loop) for it in (_FMA, _WHOLE, _ALU, _TENSOR))
        # Half of the lanes that multiply floats can multiply whole numbers, which is how registers are copied too.
        pipes = (size, chip.fma * fma, 2 * whole, chip.alu * alu, chip.tensor * tensor)
        # What is loaded straight to registers is wanted at once: the bias, which no stage of the pipeline fetches.
        alone = ALONE * size + TRIP * count(_LOAD, code, code.loop)
        return cls(max(pipes), alone, ALONE * (code.way - size) + 2 * TRIP)


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
    """Model a launch of the search, in float32 or by halves, without its node."""
    kernel, values = launch.kernel, numbers(launch)
    chunks, tokens = values["chunks"], values["tokens"]
    loop, blocks = Loop.of(code, chip), launch.grid[0] * launch.grid[1]
    resident = code.blocks(chip.capability, kernel.warps, kernel.shared)
    places = chip.processors * resident
    full, left = divmod(blocks, places)
    cycles = full * _wave(loop, kernel.warps, resident, chunks)
    cycles += _wave(loop, kernel.warps, math.ceil(left / chip.processors), chunks)
    record = 12 * kernel.sizes["GROUPS"] if kernel.function == "screen" else 8
    seconds = cycles / chip.clock + tokens * values["splits"] * record / (EFFICIENCY * chip.bandwidth)
    return Search(tokens, blocks, resident, blocks / places, blocks / (math.ceil(blocks / places) * places), seconds)


def _wave(loop: Loop, warps: int, together: int, chunks: int) -> float:
    """Return cycles of so many blocks together on a multiprocessor."""
    if not together:
        return 0.0
    each = math.ceil(together * warps / WARPS_AT_ONCE)
    return loop.around + chunks * (loop.alone + (each - 1) * loop.busy / EFFICIENCY)


def settle_seconds(launch: Launch, code: Assembled, chip: Chip) -> float:
    """Model a launch that settles, without its node: a warp's chain of trips and exchanges, or all that is issued.

    What a class that is scored whole takes is left out; few tokens have one.
    """
    kernel, tokens = launch.kernel, numbers(launch)["tokens"]
    # The longest loop scores a class whole, the next a group.
    groups = next((loop for loop in code.loops if loop.stop <= code.loop.start), range(0))
    straight = [place for place in range(code.way) if place not in code.loop and place not in groups]
    # Trips of a token: its results, its row twice, the bounds, at the end the value; of a group: its weights.
    once, turn = _chain(code, straight, 5), _chain(code, groups, 1)
    waves = launch.grid[0] / (chip.processors * code.blocks(chip.capability, kernel.warps, kernel.shared))
    chain = max(waves - 1, 0) * (once + TURNS * turn) + once + MOST_TURNS * turn
    issued = launch.grid[0] * (len(straight) + TURNS * len(groups)) / (WARPS_AT_ONCE * chip.processors)
    record = 12 * numbers(launch)["splits"] * kernel.sizes["GROUPS"]
    busy = max(issued / chip.clock, tokens * record / chip.bandwidth)
    return max(chain / chip.clock, busy / EFFICIENCY)


def _chain(code: Assembled, places: Sequence[int], trips: int) -> float:
    """Return the cycles of one warp that does what stands at `places`, and waits for so many trips."""
    return ALONE * len(places) + EXCHANGE * count(_EXCHANGE, code, places) + TRIP * trips


def other_seconds(launch: Launch, code: Assembled, chip: Chip, plan: Plan) -> float:
    """Model a launch that pools, merges or subtracts, without its node: instructions issued, or bytes moved."""
    warps = launch.kernel.warps * math.prod(launch.grid)
    issued = warps * code.way / (WARPS_AT_ONCE * chip.processors) / chip.clock
    # The residual is read, and by what subtracts written; what scales add to it is little.
    moved = plan.buffers["residual"].bytes * sum(name in dict(launch.kernel.arguments) for name in _RESIDUALS)
    return max(issued, moved / chip.bandwidth) / EFFICIENCY


def numbers(launch: Launch) -> dict[str, int]:
    """Return the whole numbers that a launch is given, by their names."""
    named = zip((name for name, _ in launch.kernel.arguments), launch.arguments, strict=True)
    return {name: value for name, value in named if isinstance(value, int)}


@dataclass(frozen=True)
class Prediction:
    """Seconds of a batch: all of it, of every launch with its node, in their order, and the searches in detail."""

    launches: tuple[tuple[Launch, float], ...]
    searches: tuple[Search, ...]

    @property
    def seconds(self) -> float:
        """All of them, one after the other."""
        return sum(seconds for _, seconds in self.launches)


def predict(plan: Plan, codes: Mapping[str, Assembled], chip: Chip) -> Prediction:
    """Model a plan; `codes` are the kernels' machine code by entry."""
    searches, launches = [], []
    for launch in plan.launches:
        code, function = codes[launch.kernel.entry], launch.kernel.function
        if function in ("search", "screen"):
            searches.append(search_launch(launch, code, chip))
            seconds = searches[-1].seconds
        elif function == "settle":
            seconds = settle_seconds(launch, code, chip)
        else:
            seconds = other_seconds(launch, code, chip, plan)
        launches.append((launch, NODE + seconds))
    return Prediction(tuple(launches), tuple(searches))
