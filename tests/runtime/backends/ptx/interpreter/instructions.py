"""What an instruction does to a machine: memory, exchange between threads, control; the rest is arithmetic's.

An instruction that is not here, an operand or modifier of it, is an error by name when the module is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import RAW, TYPES, Array, convert, operation
from tests.runtime.backends.ptx.interpreter.faults import UnknownPtxError
from tests.runtime.backends.ptx.interpreter.matrices import move, multiply
from tests.runtime.backends.ptx.interpreter.operands import CHUNK, WARP, Step, address_of, check, elements_of, immediate
from tests.runtime.backends.ptx.interpreter.parse import Address, Instruction, Module
from tests.runtime.backends.ptx.interpreter.warp import reduce, shuffle

if TYPE_CHECKING:
    from tests.runtime.backends.ptx.interpreter.machine import Machine


def step(module: Module, instruction: Instruction) -> Step:
    """Return what an instruction does. Raises UnknownPtxError."""
    for pattern, make in _STEPS:
        found = re.fullmatch(pattern, instruction.opcode)
        if found is not None:
            return make(module, instruction, *found.groups())
    return _arithmetic(module, instruction)


def _arithmetic(module: Module, instruction: Instruction) -> Step:
    done = operation(instruction.opcode)
    if len(instruction.operands) != 1 + len(done.sources):
        raise UnknownPtxError(f"the interpreter does not know {instruction.opcode} of {len(instruction.operands)}")
    kinds = (done.result, *done.sources)
    to, *sources = (check(module, *pair) for pair in zip(instruction.operands, kinds, strict=True))
    pairs = list(zip(sources, done.sources, strict=True))

    def compute(machine: Machine, mask: Array | None) -> None:
        values = [machine.read(source, kind, mask) for source, kind in pairs]
        machine.write(to, done.result, done.function(*values), mask)

    return compute


def _mov(module: Module, instruction: Instruction, kind: str) -> Step:
    """Copy, or pack two halves, or unpack them. A half may be one that has no value, where nobody uses it."""
    to, source = instruction.operands
    half = {"b64": "b32", "b32": "b16"}[kind]
    if isinstance(source, tuple):
        parts = [check(module, operand, half) for operand in source]
        check(module, to, kind)

        def pack(machine: Machine, mask: Array | None) -> None:
            empty = [mask is None and machine.empty(part) for part in parts]
            values = [
                np.zeros(1, RAW[half]) if nothing else machine.read(part, half, mask)
                for part, nothing in zip(parts, empty, strict=True)
            ]
            machine.write(str(to), kind, np.stack(np.broadcast_arrays(*values), -1), mask)
            if any(empty):
                machine.hollow[str(to)] = empty

        return pack
    if isinstance(to, tuple):
        halves = [operand if operand == "_" else check(module, operand, half) for operand in to]
        check(module, source, kind)

        def unpack(machine: Machine, mask: Array | None) -> None:
            empty = machine.hollow.pop(str(source), [False, False])
            values = np.ascontiguousarray(machine.read(str(source), kind, mask)).view(RAW[half]).reshape(-1, 2)
            for place, register in enumerate(halves):
                if register != "_" and not empty[place]:
                    machine.write(register, half, values[:, place], mask)
                elif register != "_":
                    machine.clear(register)
            if any(empty):
                machine.hollow[str(source)] = empty

        return unpack
    return _arithmetic(module, instruction)


def _permute(module: Module, instruction: Instruction) -> Step:
    """Pick bytes of two registers. A register that a constant picks nothing of may have no value."""
    operands = list(instruction.operands)
    selector = str(operands[-1])
    if not selector.startswith("%") and len(operands) == 4:
        digits = int(immediate(selector, "b32")[0])
        high = [bool(digits >> 4 * place & 4) for place in range(4)]
        for place, unread in ((1, all(high)), (2, not any(high))):
            check(module, operands[place], "b32")
            operands[place] = "0" if unread else operands[place]
    return _arithmetic(module, replace(instruction, operands=tuple(operands)))


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
    register, name = check(module, to, kind), source.base
    return lambda machine, mask: machine.write(register, kind, machine.parameters[name], mask)


def _load(module: Module, instruction: Instruction, space: str, vector: str | None, kind: str) -> Step:
    to, source = instruction.operands
    elements, address = elements_of(to, vector), address_of(module, source, space)
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
    address = address_of(module, to, space)
    elements = [check(module, element, kind) for element in elements_of(source, vector)]

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
    if immediate(str(count), "u32")[0] != 4 * CHUNK or len(rest) > 1:
        raise UnknownPtxError("a copy of other than 16 bytes")
    target, address = address_of(module, to, "shared"), address_of(module, source, "global")
    size = check(module, rest[0], "u32") if rest else "16"

    def copy(machine: Machine, mask: Array | None) -> None:
        lanes = machine.lanes(mask)
        sizes = machine.full(machine.read(size, "u32", mask), mask)
        if not np.isin(sizes, (0, 4 * CHUNK)).all():
            raise UnknownPtxError("a copy of a part of 16 bytes")
        data, reading = np.zeros((len(lanes), CHUNK), np.uint32), sizes > 0
        where, lane, epoch = target(machine, mask), machine.lane[lanes], machine.epoch[lanes]
        if reading.any():
            read = address(machine, mask)[reading]
            data[reading] = machine.memory.load(read, CHUNK, lane[reading], epoch[reading])
        machine.shared.owe(where, CHUNK, lane, epoch)
        machine.start_copy(where, data, lanes)

    return copy


def _commit(module: Module, instruction: Instruction) -> Step:
    return lambda machine, mask: machine.close_group(mask)


def _wait(module: Module, instruction: Instruction) -> Step:
    under_way = int(immediate(str(instruction.operands[0]), "u32")[0])
    return lambda machine, mask: machine.end_groups(under_way, mask)


def _barrier(module: Module, instruction: Instruction) -> Step:
    if instruction.operands != ("0",):
        raise UnknownPtxError("a barrier other than 0, or of some threads")
    return lambda machine, mask: machine.barrier(mask)


def _warp_barrier(module: Module, instruction: Instruction) -> Step:
    if instruction.operands != ("-1",) or module.threads != WARP:
        raise UnknownPtxError("a barrier of a part of a warp, or of one of several warps")
    return lambda machine, mask: machine.barrier(mask)


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
    (r"prmt\.b32", _permute),
    (r"cvt\.([su](?:8|16|32|64))\.([su](?:8|16|32|64))", _convert),
    (r"ld\.param\.(b32|b64)", _load_parameter),
    (r"ld\.(global|shared)(?:\.v([24]))?\.(b32|b64)", _load),
    (r"st\.(global|shared)(?:\.v([24]))?\.(b32|b64)", _store),
    (r"cp\.async\.cg\.shared\.global", _copy),
    (r"cp\.async\.commit_group", _commit),
    (r"cp\.async\.wait_group", _wait),
    (r"bar\.sync", _barrier),
    (r"bar\.warp\.sync", _warp_barrier),
    (r"shfl\.sync\.(bfly|idx)\.b32", shuffle),
    (r"redux\.sync\.(min|max)\.([su]32|f32)", reduce),
    (r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16", move),
    (r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32", multiply),
    (r"bra(?:\.uni)?", _branch),
    (r"ret", _return),
]
