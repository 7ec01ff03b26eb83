"""Runs a kernel in NumPy: the threads of some blocks at once, instruction by instruction.

Where threads part, those that are furthest behind go first, so that they meet again as early as they can. A lane is a
thread, counted over all blocks of the launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from coda_runtime.io.counts import count
from tests.runtime.backends.ptx.interpreter.arithmetic import RAW, TYPES, Array
from tests.runtime.backends.ptx.interpreter.faults import DivergenceError, LaunchError, PtxError, UninitialisedError
from tests.runtime.backends.ptx.interpreter.instructions import step
from tests.runtime.backends.ptx.interpreter.memory import GlobalMemory, SharedMemory
from tests.runtime.backends.ptx.interpreter.operands import SPECIAL, immediate
from tests.runtime.backends.ptx.interpreter.parse import Instruction, Module, parse

LANES = 4096
"""How many threads go at once: few enough that their registers stay in the processor's cache."""
_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_SHARED = 48 * 1024


@lru_cache(maxsize=256)
def program(text: str) -> Program:
    """Parse a module, and find what each of its instructions does. Raises UnknownPtxError."""
    return Program(parse(text))


class Program:
    """A kernel, with what each instruction does to a `Machine`."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.steps = []
        for instruction in module.instructions:
            try:
                self.steps.append(step(module, instruction))
            except PtxError as error:
                raise type(error)(f"{module.entry}: `{instruction.text}`: {error}") from error

    def launch(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        shared: int,
        arguments: Sequence[int | float],
        memory: GlobalMemory,
    ) -> None:
        """Run every block. `shared` is in bytes; `arguments` are addresses and numbers, one for each parameter.

        Raises PtxError: LaunchError for what does not fit the kernel, or what goes wrong in it.
        """
        module = self.module
        if tuple(block) != (module.threads, 1, 1):
            raise LaunchError(f"{module.entry} is for {module.threads} threads a block, and is launched with {block}")
        if not all(1 <= length <= most for length, most in zip(grid, _MAX_GRID, strict=True)):
            raise LaunchError(f"{module.entry} is launched over a grid of {grid}")
        if shared > _MAX_SHARED:
            raise LaunchError(f"{module.entry} wants {count(shared, 'byte')} of shared memory")
        if len(arguments) != len(module.parameters):
            raise LaunchError(f"{module.entry} has {len(module.parameters)} parameters, and gets {len(arguments)}")
        parameters = {
            name: np.array([value], TYPES[kind][1])
            for (name, kind), value in zip(module.parameters, arguments, strict=True)
        }
        total = int(np.prod(grid))
        memory.begin(module.threads)
        each = max(1, LANES // module.threads)
        for first in range(0, total, each):
            blocks = np.arange(first, min(first + each, total))
            Machine(self, blocks, grid, shared, parameters, memory).run()


@dataclass(frozen=True)
class Copy:
    """An asynchronous copy under way: for each lane the shared address, the data, uint32 [lanes, 4], and its group."""

    where: Array
    data: Array
    lanes: Array
    group: Array

    def only(self, which: Array) -> Copy:
        """Return the part of some lanes."""
        return Copy(self.where[which], self.data[which], self.lanes[which], self.group[which])


class Machine:
    """Some blocks of a launch. A register is an array of one value for every lane, or of one for all."""

    def __init__(
        self, program: Program, blocks: Array, grid: Sequence[int], shared: int, parameters: dict[str, Array],
        memory: GlobalMemory,
    ) -> None:  # fmt: skip
        threads = program.module.threads
        self.program, self.memory, self.parameters, self.grid = program, memory, parameters, grid
        self.count = len(blocks) * threads
        self.lane = np.arange(blocks[0] * threads, blocks[0] * threads + self.count)
        self.epoch = np.zeros(self.count, np.int64)
        self.shared = SharedMemory(len(blocks), shared, threads, int(blocks[0]))
        block = np.repeat(blocks, threads)
        self.special = {
            "%tid.x": (self.lane % threads).astype(np.uint32),
            "%ctaid.x": (block % grid[0]).astype(np.uint32),
            "%ctaid.y": (block // grid[0] % grid[1]).astype(np.uint32),
        }
        self._copies: list[Copy] = []
        self._groups = np.zeros(self.count, np.int64)
        # Of registers that were packed of halves without a value: which halves those are.
        self.hollow: dict[str, list[bool]] = {}
        self._registers: dict[str, Array] = {}
        self._partial: dict[str, Array] = {}

    def run(self) -> None:
        """Run to the end. Raises PtxError."""
        end = len(self.program.steps)
        # The lanes of `active`, None for all, stand at `at`, and others next at `until`.
        at, active, until = 0, None, end
        places = np.zeros(self.count, np.int64)
        with np.errstate(all="ignore"):
            while at != end:
                going, mask = self._step(at, active)
                at += 1
                if going is None and at != until:
                    continue
                if active is None and (going is None or mask is None):
                    at = at if going is None else going
                    continue
                places[self.lanes(active)] = at
                if going is not None:
                    places[mask] = going
                at = int(places.min())
                active = places == at
                until = end if active.all() else int(places[~active].min())
                active = None if active.all() else active

    def _step(self, at: int, active: Array | None) -> tuple[int | None, Array | None]:
        instruction = self.program.module.instructions[at]
        try:
            mask = self._guard(instruction, active)
            if mask is not None and not mask.any():
                return None, mask
            return self.program.steps[at](self, mask), mask
        except PtxError as error:
            raise self._located(error, instruction) from error

    def _guard(self, instruction: Instruction, active: Array | None) -> Array | None:
        """Return which lanes execute the instruction, None for all."""
        if instruction.predicate is None:
            return active
        mask = self.read(instruction.predicate, "pred", active)
        mask = np.broadcast_to(~mask if instruction.negated else mask, self.count)
        if active is not None:
            mask = mask & active
        return None if mask.all() else mask

    def _located(self, error: PtxError, instruction: Instruction) -> PtxError:
        threads = self.program.module.threads
        where = ""
        if error.lane is not None:
            block, thread = divmod(error.lane, threads)
            where = f"thread {thread} of block ({block % self.grid[0]}, {block // self.grid[0]}) "
        return type(error)(f"{self.program.module.entry}: `{instruction.text}`: {where}{error}")

    def lanes(self, mask: Array | None) -> Array:
        """Return the places of a mask's lanes in this machine's arrays."""
        return np.arange(self.count) if mask is None else np.flatnonzero(mask)

    def full(self, values: Array, mask: Array | None) -> Array:
        """Return `values` for every lane of the mask."""
        spread = np.broadcast_to(values, self.count)
        return spread if mask is None else spread[mask]

    def all_of(self, mask: Array | None, group: int, what: str) -> None:
        """Check that a group of lanes (a warp, a block) comes as a whole, or not at all. Raises DivergenceError."""
        if mask is None:
            return
        groups = mask.reshape(-1, group)
        torn = groups.any(1) & ~groups.all(1)
        if torn.any():
            raise DivergenceError(f"{what}, and others of it do not", int(self.lane[int(torn.argmax()) * group]))

    def read(self, operand: str, kind: str, mask: Array | None) -> Array:
        """Return an operand as an array of `kind`, for all lanes or one for all. Raises UninitialisedError."""
        if operand[0] != "%":
            values = immediate(operand, kind)
        elif operand in SPECIAL:
            values = self.special[operand]
        else:
            found = None if operand in self.hollow else self._registers.get(operand)
            if found is None or (operand in self._partial and not self.full(self._partial[operand], mask).all()):
                raise UninitialisedError(f"{operand} is used before it has a value")
            values = found
        values = values.view(TYPES[kind][1])
        return values.reshape(-1, 2) if kind.endswith("x2") else values

    def empty(self, register: str) -> bool:
        """Return whether nobody gave a register a value."""
        return register[0] == "%" and register not in SPECIAL and register not in self._registers

    def clear(self, register: str) -> None:
        """Take a register's value away."""
        for known in (self._registers, self._partial, self.hollow):
            known.pop(register, None)

    def write(self, register: str, kind: str, values: Array, mask: Array | None) -> None:
        """Set a register, in the lanes of the mask."""
        values = np.ascontiguousarray(values).view(RAW[TYPES[kind][0]])
        if values.ndim == 2:
            values = values.reshape(-1)
        if mask is None:
            self.clear(register)
            self._registers[register] = values
            return
        old = self._registers.get(register)
        if old is None:
            old, self._partial[register] = np.zeros(1, values.dtype), mask
        elif register in self._partial:
            self._partial[register] = self._partial[register] | mask
        self._registers[register] = np.where(mask, values, old)

    def scatter(self, register: str, kind: str, values: Array, lanes: Array, mask: Array | None) -> None:
        """Set a register from one value for each of `lanes`, which are those of the mask."""
        if mask is not None:
            full = np.zeros(self.count, values.dtype)
            full[lanes] = values
            values = full
        self.write(register, kind, values, mask)

    def start_copy(self, where: Array, data: Array, lanes: Array) -> None:
        """Start an asynchronous copy to shared addresses, uint32 [lanes, 4], in the group that each lane has open."""
        self._copies.append(Copy(where, data, lanes, self._groups[lanes]))

    def close_group(self, mask: Array | None) -> None:
        """Close the group that each lane of the mask has open."""
        self._groups = self._groups + (1 if mask is None else mask)

    def end_groups(self, under_way: int, mask: Array | None) -> None:
        """End the copies of each lane of the mask, but for its open group and the last `under_way` closed ones."""
        left = []
        for copy in self._copies:
            due = copy.group < self._groups[copy.lanes] - under_way
            due = due if mask is None else due & mask[copy.lanes]
            if due.any():
                done = copy.only(due)
                lane, epoch = self.lane[done.lanes], self.epoch[done.lanes]
                self.shared.store(done.where, done.data, lane, epoch, owed=True)
            if not due.all():
                left.append(copy.only(~due))
        self._copies = left

    def barrier(self, mask: Array | None) -> None:
        """Let whole blocks pass a barrier. Raises DivergenceError."""
        self.all_of(mask, self.program.module.threads, "some threads of a block come to a barrier")
        self.epoch = self.epoch + 1 if mask is None else self.epoch + mask
        self.shared.barrier(None if mask is None else self.lane[mask])
