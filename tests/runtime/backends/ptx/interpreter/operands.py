"""Operands: registers, constants and addresses, checked against the types that an instruction takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import RAW, TYPES, Array
from tests.runtime.backends.ptx.interpreter.faults import UnknownPtxError
from tests.runtime.backends.ptx.interpreter.memory import SHARED_BASE
from tests.runtime.backends.ptx.interpreter.parse import SHARED, Address, Module, Operand

if TYPE_CHECKING:
    from tests.runtime.backends.ptx.interpreter.machine import Machine

Step = Callable[["Machine", Array | None], int | None]
"""Does an instruction in the lanes of a mask, None for all; gives where they go on, None for the next instruction."""
SPECIAL = ("%tid.x", "%ctaid.x", "%ctaid.y")
WARP = 32
CHUNK = 4
"""Words of a row of a matrix, and of an asynchronous copy."""


@lru_cache(maxsize=4096)
def immediate(text: str, kind: str) -> Array:
    """Return a constant as it stands in a register of type `kind`, an array of one. Raises UnknownPtxError."""
    raw = TYPES[kind][0]
    try:
        if text.startswith("0f"):
            return np.array([int(text[2:], 16)], np.uint32)
        number = SHARED_BASE if text == SHARED else int(text.removesuffix("U"), 0)
    except ValueError:
        raise UnknownPtxError(f"the operand {text}") from None
    return np.array([number != 0 if raw == "pred" else number & (1 << int(raw[1:])) - 1], RAW[raw])


def check(module: Module, operand: Operand, kind: str) -> str:
    """Return an operand that holds a value of `kind`. Raises UnknownPtxError."""
    if not isinstance(operand, str):
        raise UnknownPtxError(f"the operand {operand}")
    if not operand.startswith("%"):
        held = immediate(operand, kind).dtype == RAW[TYPES[kind][0]]
    elif operand in SPECIAL:
        held = TYPES[kind][0] == "b32"
    else:
        held = module.kind(operand) == TYPES[kind][0]
    if not held:
        raise UnknownPtxError(f"{operand} in place of a {kind}")
    return operand


def address_of(module: Module, operand: Operand, space: str) -> Callable[[Machine, Array | None], Array]:
    """Return what computes an address in every lane of the mask, int64 [lanes]."""
    if not isinstance(operand, Address):
        raise UnknownPtxError(f"the operand {operand} in place of an address")
    kind = "u64" if space == "global" else "u32"
    base = check(module, operand.base, kind)

    def compute(machine: Machine, mask: Array | None) -> Array:
        return machine.full(machine.read(base, kind, mask).astype(np.int64) + operand.offset, mask)

    return compute


def elements_of(operand: Operand, vector: str | None) -> tuple[str, ...]:
    """Return the registers of a vector of as many. Raises UnknownPtxError."""
    elements = operand if isinstance(operand, tuple) else (str(operand),)
    if len(elements) != int(vector or 1):
        raise UnknownPtxError(f"{len(elements)} elements")
    return elements
