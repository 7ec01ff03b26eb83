"""Matrices that the threads of a warp hold together: moved to and from shared memory, and multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import Array
from tests.runtime.backends.ptx.interpreter.faults import MisalignedError, UnknownPtxError
from tests.runtime.backends.ptx.interpreter.operands import CHUNK, WARP, Step, address_of, check, elements_of
from tests.runtime.backends.ptx.interpreter.parse import Instruction, Module

if TYPE_CHECKING:
    from tests.runtime.backends.ptx.interpreter.machine import Machine

_ROW, _WORD = np.arange(WARP) // CHUNK, np.arange(WARP) % CHUNK
SLACK = 8 * 2.0**-21
"""What a product's sums are off by here, as a share of what is added: PTX says no more than "at least single
precision", and the kernels allow 2^-21 an addition. So such an error is made, in one direction or the other."""


def move(module: Module, instruction: Instruction, name: str, count: str, turned: str | None) -> Step:
    """Load or store matrices of 8 rows of 16 bytes: lane 8 q + r of a warp has the address of row r of matrix q.

    Lane 4 r + w has word w of row r in its register q; turned, the halves at column r of rows 2 w and 2 w + 1.
    """
    to, source = instruction.operands if name == "ld" else instruction.operands[::-1]
    registers = [check(module, element, "b32") for element in elements_of(to, count)]
    address = address_of(module, source, "shared")
    if turned and name == "st":
        raise UnknownPtxError("a matrix that is stored turned")

    def move(machine: Machine, mask: Array | None) -> None:
        machine.all_of(mask, WARP, "some threads of a warp move a matrix")
        lanes = machine.lanes(mask)
        rows = address(machine, mask).reshape(-1, WARP)
        who = (machine.lane[lanes], machine.epoch[lanes])
        for place, register in enumerate(registers):
            start = rows[:, 8 * place : 8 * place + 8]
            if (start % (4 * CHUNK)).any():
                raise MisalignedError("a row of a matrix is at no multiple of 16 bytes")
            if name == "st":
                values = machine.full(machine.read(register, "b32", mask), mask)
                machine.shared.store((start[:, _ROW] + 4 * _WORD).reshape(-1), values.reshape(-1, 1), *who)
            elif turned:
                low, high = (
                    machine.shared.load((start[:, 2 * _WORD + odd] + 4 * (_ROW // 2)).reshape(-1), 1, *who)
                    for odd in (0, 1)
                )
                half = np.tile(_ROW % 2, len(start))
                pair = [words.view(np.uint16).reshape(-1, 2)[np.arange(len(lanes)), half] for words in (low, high)]
                machine.scatter(register, "b32", np.stack(pair, 1).view(np.uint32).reshape(-1), lanes, mask)
            else:
                words = machine.shared.load((start[:, _ROW] + 4 * _WORD).reshape(-1), 1, *who)
                machine.scatter(register, "b32", words.reshape(-1), lanes, mask)

    return move


def multiply(module: Module, instruction: Instruction) -> Step:
    """Compute D = A B + C of halves A [16, 16] and B [16, 8] and float32 C, a matrix of each a warp."""
    to, *sources = instruction.operands
    results = [check(module, element, "f32") for element in elements_of(to, "4")]
    left, right, more = (
        [check(module, element, kind) for element in elements_of(operand, count)]
        for operand, count, kind in zip(sources, "424", ("b32", "b32", "f32"), strict=True)
    )

    def multiply(machine: Machine, mask: Array | None) -> None:
        machine.all_of(mask, WARP, "some threads of a warp multiply matrices")

        def halves(register: str) -> Array:
            words = np.ascontiguousarray(machine.full(machine.read(register, "b32", mask), mask))
            # [warps, row or column, two neighbours along k]
            return words.view(np.float16).reshape(-1, 8, 8).astype(np.float64)

        top, bottom = (np.concatenate([halves(left[row]), halves(left[row + 2])], 2) for row in (0, 1))
        a = np.concatenate([top, bottom], 1)
        b = np.concatenate([halves(register) for register in right], 2)
        c = np.stack([machine.full(machine.read(register, "f32", mask), mask) for register in more], 1)
        c = c.reshape(-1, 8, 4, 2, 2).transpose(0, 3, 1, 2, 4).reshape(-1, 16, 8).astype(np.float64)
        total = a @ b.transpose(0, 2, 1) + c
        size = np.abs(a) @ np.abs(b).transpose(0, 2, 1) + np.abs(c)
        rows = total.astype(np.float32)
        off = np.where(rows.view(np.uint32) & 1, SLACK, -SLACK) * size
        exact = np.where(np.isfinite(total), total + off, total).astype(np.float32)
        parts = exact.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 4)
        for place, register in enumerate(results):
            machine.scatter(register, "f32", parts[:, place], machine.lanes(mask), mask)

    return multiply
