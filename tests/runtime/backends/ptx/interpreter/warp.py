"""Instructions by which the threads of a warp exchange what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import Array
from tests.runtime.backends.ptx.interpreter.faults import DivergenceError, MisalignedError, UnknownPtxError
from tests.runtime.backends.ptx.interpreter.operands import CHUNK, WARP, Step, address_of, check, elements_of
from tests.runtime.backends.ptx.interpreter.parse import Instruction, Module

if TYPE_CHECKING:
    from tests.runtime.backends.ptx.interpreter.machine import Machine


def shuffle(module: Module, instruction: Instruction, mode: str) -> Step:
    """Take the value of the lane whose number is `by` (idx), or one's own with the bits of `by` turned (bfly)."""
    to, source, by, *rest = (check(module, operand, "b32") for operand in instruction.operands)
    if rest != ["31", "-1"]:
        raise UnknownPtxError("a shuffle of other than whole warps")
    turned = np.uint32(mode == "bfly")

    def shuffle(machine: Machine, mask: Array | None) -> None:
        machine.all_of(mask, WARP, "some threads of a warp shuffle")
        own = machine.special["%tid.x"] % WARP
        lane = (own * turned ^ machine.read(by, "b32", mask)) % WARP
        values = np.broadcast_to(machine.read(source, "b32", mask), machine.count)
        machine.write(to, "b32", values[np.arange(machine.count) - own + lane], mask)

    return shuffle


def reduce(module: Module, instruction: Instruction, name: str, kind: str) -> Step:
    to, source, members = (check(module, operand, kind) for operand in instruction.operands)
    least = {"f32": (np.fmin, np.fmax)}.get(kind, (np.minimum, np.maximum))[name == "max"]

    def reduce(machine: Machine, mask: Array | None) -> None:
        machine.all_of(mask, WARP, "some threads of a warp reduce")
        if (machine.full(machine.read(members, "u32", mask), mask) != 0xFFFFFFFF).any():
            raise UnknownPtxError("a reduction of other than whole warps")
        values = np.broadcast_to(machine.read(source, kind, mask), machine.count).reshape(-1, WARP)
        machine.write(to, kind, np.repeat(least.reduce(values, 1), WARP), mask)

    return reduce


def matrix(module: Module, instruction: Instruction, name: str, count: str) -> Step:
    """Load or store matrices of 8 rows of 16 bytes: lane 8 q + r of a warp has the address of row r of matrix q.

    Lane 4 r + w has word w of row r in its register q.
    """
    to, source = instruction.operands if name == "ld" else instruction.operands[::-1]
    registers = [check(module, element, "b32") for element in elements_of(to, count)]
    address = address_of(module, source, "shared")
    row, word = np.arange(WARP) // CHUNK, np.arange(WARP) % CHUNK

    def move(machine: Machine, mask: Array | None) -> None:
        if mask is not None:
            raise DivergenceError("some threads move a matrix")
        rows = address(machine, mask).reshape(-1, WARP)
        for place, register in enumerate(registers):
            start = rows[:, 8 * place + row]
            if (start % (4 * CHUNK)).any():
                raise MisalignedError("a row of a matrix is at no multiple of 16 bytes")
            words, who = (start + 4 * word).reshape(-1), (machine.lane, machine.epoch)
            if name == "ld":
                machine.write(register, "b32", machine.shared.load(words, 1, *who).reshape(-1), mask)
            else:
                values = machine.full(machine.read(register, "b32", mask), mask)
                machine.shared.store(words, values.reshape(-1, 1), *who)

    return move
