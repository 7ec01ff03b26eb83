"""Instructions by which the threads of a warp exchange what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import Array
from tests.runtime.backends.ptx.interpreter.faults import UnknownPtxError
from tests.runtime.backends.ptx.interpreter.operands import WARP, Step, check
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
