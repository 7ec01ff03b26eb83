"""What an instruction does to a machine: memory, exchange between threads, control; the rest is arithmetic's.

An instruction that is not here, an operand or modifier of it, is an error by name when the module is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import RAW, TYPES, Array, convert, operation
from tests.runtime.backends.ptx.interpreter.faults import (
    DivergenceError,
    MisalignedError,
    UnknownPtxError,
)
from tests.runtime.backends.ptx.interpreter.memory import SHARED_BASE
from tests.runtime.backends.ptx.interpreter.parse import SHARED, Address, Instruction, Module, Operand

if TYPE_CHECKING:
    from tests.runtime.backends.ptx.interpreter.machine import Machine

Step = Callable[["Machine", Array | None], int | None]
"""Does an instruction in the lanes of a mask, None for all; gives where they go on, None for the next instruction."""
SPECIAL = ("%tid.x", "%ctaid.x", "%ctaid.y")
WARP = 32
_CHUNK = 4
"""Words of a row of ldmatrix, and of an asynchronous copy."""


def step(module: Module, instruction: Instruction) -> Step:
    """Return what an instruction does. Raises UnknownPtxError."""
    for pattern, make in _STEPS:
        found = re.fullmatch(pattern, instruction.opcode)
        if found is not None:
            return make(module, instruction, *found.groups())
    return _arithmetic(module, instruction)


@lru_cache(maxsize=4096)
def immediate(text: str, kind: str) -> Array:
    """Return a constant as it stands in a register of type `kind`, an array of one. Raises UnknownPtxError."""
    raw = TYPES[kind][0]
    try:
        if text.startswith("0f"):
            return np.array([int(text[2:], 16)], np.uint32)
        number = SHARED_BASE if text == SHARED else int(text, 0)
    except ValueError:
        raise UnknownPtxError(f"the operand {text}") from None
    return np.array([number != 0 if raw == "pred" else number & (1 << int(raw[1:])) - 1], RAW[raw])


def _check(module: Module, operand: Operand, kind: str) -> str:
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


def _arithmetic(module: Module, instruction: Instruction) -> Step:
    done = operation(instruction.opcode)
    if len(instruction.operands) != 1 + len(done.sources):
        raise UnknownPtxError(f"the interpreter does not know {instruction.opcode} of {len(instruction.operands)}")
    kinds = (done.result, *done.sources)
    to, *sources = (_check(module, *pair) for pair in zip(instruction.operands, kinds, strict=True))
    pairs = list(zip(sources, done.sources, strict=True))

    def compute(machine: Machine, mask: Array | None) -> None:
        values = [machine.read(source, kind, mask) for source, kind in pairs]
        machine.write(to, done.result, done.function(*values), mask)

    return compute


def _mov(module: Module, instruction: Instruction, kind: str) -> Step:
    to, source = instruction.operands
    half = {"b64": "b32", "b32": "b16"}[kind]
    if isinstance(source, tuple):
        low, high = (_check(module, operand, half) for operand in source)
        _check(module, to, kind)

        def pack(machine: Machine, mask: Array | None) -> None:
            parts = np.broadcast_arrays(machine.read(low, half, mask), machine.read(high, half, mask))
            machine.write(str(to), kind, np.stack(parts, -1), mask)

        return pack
    if isinstance(to, tuple):
        halves = [operand if operand == "_" else _check(module, operand, half) for operand in to]
        _check(module, source, kind)

        def unpack(machine: Machine, mask: Array | None) -> None:
            parts = np.ascontiguousarray(machine.read(source, kind, mask)).view(RAW[half]).reshape(-1, 2)
            for place, register in enumerate(halves):
                if register != "_":
                    machine.write(register, half, parts[:, place], mask)

        return unpack
    return _arithmetic(module, instruction)


def _convert(module: Module, instruction: Instruction, to: str, of: str) -> Step:
    """Convert integers; both registers may be wider than their types."""
    register, source = map(str, instruction.operands)
    kinds = [module.kind(operand) for operand in (register, source)]
    if any(int(held[1:]) < int(kind[1:]) for held, kind in zip(kinds, (to, of), strict=True)):
        raise UnknownPtxError(f"registers of {' and '.join(kinds)}")
    held_to, held_of = kinds

    def convert_all(machine: Machine, mask: Array | None) -> None:
        values = convert(machine.read(source, held_of, mask), of, to)
        machine.write(register, held_to, values.astype(RAW[held_to]), mask)

    return convert_all


def _load_parameter(module: Module, instruction: Instruction, kind: str) -> Step:
    to, source = instruction.operands
    given = dict(module.parameters)
    if not isinstance(source, Address) or source.offset or TYPES[given.get(source.base, "pred")][0] != TYPES[kind][0]:
        raise UnknownPtxError(f"the parameter {source}")
    register, name = _check(module, to, kind), source.base
    return lambda machine, mask: machine.write(register, kind, machine.parameters[name], mask)


def _address(module: Module, operand: Operand, space: str) -> Callable[[Any, Array | None], Array]:
    """Return what computes an address in every lane of the mask, int64 [lanes]."""
    if not isinstance(operand, Address):
        raise UnknownPtxError(f"the operand {operand} in place of an address")
    kind = "u64" if space == "global" else "u32"
    base = _check(module, operand.base, kind)

    def compute(machine: Machine, mask: Array | None) -> Array:
        return machine.full(machine.read(base, kind, mask).astype(np.int64) + operand.offset, mask)

    return compute


def _elements(operand: Operand, vector: str | None) -> tuple[str, ...]:
    elements = operand if isinstance(operand, tuple) else (str(operand),)
    if len(elements) != int(vector or 1):
        raise UnknownPtxError(f"{len(elements)} elements")
    return elements


def _load(module: Module, instruction: Instruction, space: str, vector: str | None, kind: str) -> Step:
    to, source = instruction.operands
    elements, address = _elements(to, vector), _address(module, source, space)
    # A register may be wider than what is loaded, which zeros fill up.
    kinds = [kind if element == "_" else module.kind(element) for element in elements]
    if any(int(held[1:]) < int(kind[1:]) for held in kinds):
        raise UnknownPtxError(f"a register of less than {kind}")
    width = len(elements) * int(kind[1:]) // 32

    def load(machine: Machine, mask: Array | None) -> None:
        lanes = machine.lanes(mask)
        if len(lanes):
            memory = machine.memory if space == "global" else machine.shared
            words = memory.load(address(machine, mask), width, machine.lane[lanes], machine.epoch[lanes])
            values = words.view(RAW[kind])
            for place, (register, held) in enumerate(zip(elements, kinds, strict=True)):
                if register != "_":
                    machine.scatter(register, held, values[:, place].astype(RAW[held]), lanes, mask)

    return load


def _store(module: Module, instruction: Instruction, space: str, vector: str | None, kind: str) -> Step:
    to, source = instruction.operands
    address = _address(module, to, space)
    elements = [_check(module, element, kind) for element in _elements(source, vector)]

    def store(machine: Machine, mask: Array | None) -> None:
        lanes = machine.lanes(mask)
        if len(lanes):
            values = [machine.full(machine.read(element, kind, mask), mask) for element in elements]
            memory = machine.memory if space == "global" else machine.shared
            words = np.stack(values, 1).view(np.uint32)
            memory.store(address(machine, mask), words, machine.lane[lanes], machine.epoch[lanes])

    return store


def _copy(module: Module, instruction: Instruction) -> Step:
    """``cp.async [to], [from], 16, size``: nothing is read where `size` is 0, and zeros are written."""
    to, source, count, *rest = instruction.operands
    if immediate(str(count), "u32")[0] != 4 * _CHUNK or len(rest) > 1:
        raise UnknownPtxError("a copy of other than 16 bytes")
    target, address = _address(module, to, "shared"), _address(module, source, "global")
    size = _check(module, rest[0], "u32") if rest else "16"

    def copy(machine: Machine, mask: Array | None) -> None:
        lanes = machine.lanes(mask)
        sizes = machine.full(machine.read(size, "u32", mask), mask)
        if not np.isin(sizes, (0, 4 * _CHUNK)).all():
            raise UnknownPtxError("a copy of a part of 16 bytes")
        data, reading = np.zeros((len(lanes), _CHUNK), np.uint32), sizes > 0
        where, lane, epoch = target(machine, mask), machine.lane[lanes], machine.epoch[lanes]
        if reading.any():
            read = address(machine, mask)[reading]
            data[reading] = machine.memory.load(read, _CHUNK, lane[reading], epoch[reading])
        machine.shared.owe(where, _CHUNK, lane, epoch)
        machine.copies.append((where, data, lanes))

    return copy


def _commit(module: Module, instruction: Instruction) -> Step:
    def commit(machine: Machine, mask: Array | None) -> None:
        if mask is not None:
            raise DivergenceError("some threads close a group of copies")
        machine.groups.append(machine.copies)
        machine.copies = []

    return commit


def _wait(module: Module, instruction: Instruction) -> Step:
    under_way = int(immediate(str(instruction.operands[0]), "u32")[0])

    def wait(machine: Machine, mask: Array | None) -> None:
        if mask is not None:
            raise DivergenceError("some threads wait for copies")
        while len(machine.groups) > under_way:
            for where, data, lanes in machine.groups.pop(0):
                machine.shared.store(where, data, machine.lane[lanes], machine.epoch[lanes], owed=True)

    return wait


def _barrier(module: Module, instruction: Instruction) -> Step:
    if instruction.operands != ("0",):
        raise UnknownPtxError("a barrier other than 0, or of some threads")
    return lambda machine, mask: machine.barrier(mask)


def _shuffle(module: Module, instruction: Instruction, mode: str) -> Step:
    """Take the value of the lane whose number is `by` (idx), or one's own with the bits of `by` turned (bfly)."""
    to, source, by, *rest = (_check(module, operand, "b32") for operand in instruction.operands)
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


def _reduce(module: Module, instruction: Instruction, name: str, kind: str) -> Step:
    to, source, members = (_check(module, operand, kind) for operand in instruction.operands)
    least = {"f32": (np.fmin, np.fmax)}.get(kind, (np.minimum, np.maximum))[name == "max"]

    def reduce(machine: Machine, mask: Array | None) -> None:
        machine.all_of(mask, WARP, "some threads of a warp reduce")
        if (machine.full(machine.read(members, "u32", mask), mask) != 0xFFFFFFFF).any():
            raise UnknownPtxError("a reduction of other than whole warps")
        values = np.broadcast_to(machine.read(source, kind, mask), machine.count).reshape(-1, WARP)
        machine.write(to, kind, np.repeat(least.reduce(values, 1), WARP), mask)

    return reduce


def _load_matrix(module: Module, instruction: Instruction, count: str) -> Step:
    """Matrices of 8 rows of 16 bytes: lane 8 q + r of a warp has the address of row r of matrix q."""
    to, source = instruction.operands
    registers = [_check(module, element, "b32") for element in _elements(to, count)]
    address = _address(module, source, "shared")
    row, word = np.arange(WARP) // _CHUNK, np.arange(WARP) % _CHUNK

    def load(machine: Machine, mask: Array | None) -> None:
        machine.all_of(mask, WARP, "some threads of a warp load a matrix")
        if mask is not None:
            raise UnknownPtxError("a matrix that some warps load")
        rows = address(machine, mask).reshape(-1, WARP)
        for place, register in enumerate(registers):
            start = rows[:, 8 * place + row]
            if (start % (4 * _CHUNK)).any():
                raise MisalignedError("loads a row that is no multiple of 16 bytes")
            words = machine.shared.load((start + 4 * word).reshape(-1), 1, machine.lane, machine.epoch)
            machine.write(register, "b32", words.reshape(-1), mask)

    return load


def _branch(module: Module, instruction: Instruction) -> Step:
    label = str(instruction.operands[0])
    if label not in module.labels:
        raise UnknownPtxError(f"the label {label}")
    place = module.labels[label]
    return lambda machine, mask: place


def _return(module: Module, instruction: Instruction) -> Step:
    end = len(module.instructions)
    return lambda machine, mask: end


_STEPS: list[tuple[str, Callable[..., Step]]] = [
    (r"mov\.(b32|b64)", _mov),
    (r"cvt\.([su](?:8|16|32|64))\.([su](?:8|16|32|64))", _convert),
    (r"ld\.param\.(b32|b64)", _load_parameter),
    (r"ld\.(global|shared)(?:\.v([24]))?\.(b32|b64)", _load),
    (r"st\.(global|shared)(?:\.v([24]))?\.(b32|b64)", _store),
    (r"cp\.async\.cg\.shared\.global", _copy),
    (r"cp\.async\.commit_group", _commit),
    (r"cp\.async\.wait_group", _wait),
    (r"bar\.sync", _barrier),
    (r"shfl\.sync\.(bfly|idx)\.b32", _shuffle),
    (r"redux\.sync\.(min|max)\.([su]32|f32)", _reduce),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x([124])\.shared\.b16", _load_matrix),
    (r"bra(?:\.uni)?", _branch),
    (r"ret", _return),
]
