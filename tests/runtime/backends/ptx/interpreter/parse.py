"""PTX text into instructions, as far as the kernels' compiler writes it; anything else is an error by name.

The language is documented in "Parallel Thread Execution ISA", https://docs.nvidia.com/cuda/parallel-thread-execution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.runtime.backends.ptx.interpreter.faults import UnknownPtxError

SHARED = "global_smem"
"""The one symbol that kernels address shared memory by."""

_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)\s*\.reqntid (\d+)\s*\{(.*)\}\s*$", re.DOTALL)
_PARAMETER = re.compile(r"\.param \.(u64 \.ptr \.global \.align \d+|u32|f32) (\w+)")
_REGISTERS = re.compile(r"\.reg \.(pred|b16|b32|b64) (%\w+?)<(\d+)>")
_HEADER = re.compile(
    r"\.version \d+\.\d+|\.target sm_\d+a?|\.address_size 64"
    rf"|\.extern \.shared \.align 16 \.b8 {SHARED}\[\];"
    r"|\.global \.align 1 \.b8 [\w$]+\[\d+\] = \{[\d, ]*\};"
)
_LABEL = re.compile(r"(\$\w+): *")
_PREDICATE = re.compile(r"@(!?)(%\w+) +")
_ADDRESS = re.compile(r"\[ ?([%\w$]+) ?(?:\+ ?(-?\w+))? ?\]")
# How many bytes of a vector are used is a hint; it changes nothing that is computed.
_HINT = re.compile(r'\.pragma "used_bytes_mask \w+"')


@dataclass(frozen=True)
class Address:
    """``[base + offset]``: a register, a symbol or a parameter, and bytes."""

    base: str
    offset: int = 0


Operand = str | Address | tuple[str, ...]
"""A register, an immediate, a symbol or a label; an address; or the elements of a vector."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, `text` as it stands in the file."""

    opcode: str
    operands: tuple[Operand, ...]
    predicate: str | None
    negated: bool
    text: str


@dataclass(frozen=True)
class Module:
    """One kernel. `parameters` are (name, "u64", "u32" or "f32"); `labels` are places in `instructions`."""

    entry: str
    parameters: tuple[tuple[str, str], ...]
    threads: int
    registers: Mapping[str, tuple[str, int]]
    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]

    def kind(self, register: str) -> str:
        """Return "pred", "b16", "b32" or "b64". Raises UnknownPtxError for a register that is not declared."""
        prefix = register.rstrip("0123456789")
        kind, count = self.registers.get(prefix, ("", 0))
        if not int(register[len(prefix) :] or count) < count:
            raise UnknownPtxError(f"the register {register} is not declared")
        return kind


def parse(text: str) -> Module:
    """Read a module with one kernel. Raises UnknownPtxError."""
    plain = re.sub(r"[ \t]+", " ", re.sub(r"//.*", "", text))
    found = _ENTRY.search(plain)
    if found is None:
        raise UnknownPtxError("the text has no .visible .entry with .reqntid")
    rest = _HEADER.sub("", plain[: found.start()]).split()
    if rest:
        raise UnknownPtxError(f"{rest[0]} before the kernel")
    entry, head, threads, body = found.groups()
    parameters = tuple((name, kind.split()[0]) for kind, name in _PARAMETER.findall(head))
    if len(parameters) != len(head.split(",")):
        raise UnknownPtxError(f"a parameter of {entry} that is no pointer, u32 or f32")
    registers, instructions, labels = {}, [], {}
    for statement in _statements(body):
        label = _LABEL.match(statement)
        while label is not None:
            labels[label[1]] = len(instructions)
            statement = statement[label.end() :]
            label = _LABEL.match(statement)
        declared = _REGISTERS.fullmatch(statement)
        if declared is not None:
            registers[declared[2]] = (declared[1], int(declared[3]))
        elif statement and not _HINT.fullmatch(statement):
            instructions.append(_instruction(statement))
    return Module(entry, parameters, int(threads), registers, tuple(instructions), labels)


def _statements(body: str) -> Iterator[str]:
    for statement in body.split(";"):
        yield " ".join(statement.split())


def _instruction(statement: str) -> Instruction:
    guard = _PREDICATE.match(statement)
    plain = statement if guard is None else statement[guard.end() :]
    opcode, _, operands = plain.partition(" ")
    return Instruction(
        opcode,
        tuple(_operand(operand) for operand in _split(operands)),
        None if guard is None else guard[2],
        guard is not None and guard[1] == "!",
        statement,
    )


def _split(operands: str) -> Iterator[str]:
    """Split at the commas outside of braces."""
    for operand in re.split(r",(?![^{]*\})", operands):
        if operand.strip():
            yield operand.strip()


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return tuple(element.strip() for element in text.strip("{} ").split(","))
    if text.startswith("["):
        address = _ADDRESS.fullmatch(text)
        if address is None:
            raise UnknownPtxError(f"the address {text}")
        return Address(address[1], int(address[2] or "0", 0))
    return text
