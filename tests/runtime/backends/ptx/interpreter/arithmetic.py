"""What instructions compute, lane by lane: a table from opcode to types and a NumPy function.

Floats are IEEE's, rounded to nearest, denormals kept. What PTX calls approximate or full-range (`div.full`,
`sqrt.approx`, `.ftz`) is not in the table: the kernels promise float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tests.runtime.backends.ptx.interpreter.faults import UnknownPtxError

Array = np.ndarray[Any, np.dtype[Any]]

RAW: dict[str, type] = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64}
"""Registers, as they are stored."""
TYPES: dict[str, tuple[str, type]] = {
    **{kind: (kind, dtype) for kind, dtype in RAW.items()},
    **{f"{letter}{size}": (f"b{size}", np.dtype(f"{letter if letter == 'u' else 'i'}{size // 8}").type)
       for letter in "us" for size in (16, 32, 64)},
    "f16": ("b16", np.float16),
    "f32": ("b32", np.float32),
    "f32x2": ("b64", np.float32),
    "s16x2": ("b32", np.int16),
}  # fmt: skip
"""Types of PTX: the register that holds one, and NumPy's dtype. Those with x2 are two to a register, [lanes, 2]."""


@dataclass(frozen=True)
class Operation:
    """`function` takes an array of each type of `sources`, and gives one of type `result`."""

    sources: tuple[str, ...]
    result: str
    function: Callable[..., Array]


@lru_cache
def operation(opcode: str) -> Operation:
    """Return what an opcode does. Raises UnknownPtxError."""
    for pattern, make in _TABLE:
        found = re.fullmatch(pattern, opcode)
        if found is not None:
            return make(*found.groups())
    raise UnknownPtxError(f"the interpreter does not know {opcode}")


def _same(function: Callable[..., Array], count: int = 2) -> Callable[[str], Operation]:
    """All sources, and the result, of the one type that the opcode names."""
    return lambda kind: Operation((kind,) * count, kind, function)


def _chosen(functions: dict[str, Callable[..., Array]], count: int = 2) -> Callable[[str, str], Operation]:
    return lambda name, kind: Operation((kind,) * count, kind, functions[name])


def _wide(kind: str) -> str:
    return f"{kind[0]}{2 * int(kind[1:])}"


def _mul_wide(kind: str) -> Operation:
    to = TYPES[_wide(kind)][1]
    return Operation((kind, kind), _wide(kind), lambda a, b: a.astype(to) * b.astype(to))


def _mad_wide(kind: str) -> Operation:
    to = TYPES[_wide(kind)][1]
    return Operation((kind, kind, _wide(kind)), _wide(kind), lambda a, b, c: a.astype(to) * b.astype(to) + c)


def _mul_hi(kind: str) -> Operation:
    to, back, width = TYPES[_wide(kind)][1], TYPES[kind][1], int(kind[1:])
    return Operation((kind, kind), kind, lambda a, b: (a.astype(to) * b.astype(to) >> to(width)).astype(back))


def _divide(a: Array, b: Array) -> Array:
    """Divide towards zero; all ones for a divisor of zero, of which PTX says nothing."""
    wide = a.astype(np.int64)
    whole = np.abs(wide) // np.maximum(np.abs(b.astype(np.int64)), 1)
    return np.where(b == 0, -1, np.where((wide < 0) != (b < 0), -whole, whole)).astype(a.dtype)


def _shift(function: Callable[..., Array]) -> Callable[[str], Operation]:
    """Shift by a 32-bit amount; more than the width is the width."""

    def make(kind: str) -> Operation:
        dtype, width = TYPES[kind][1], int(kind[1:])

        def shift(a: Array, by: Array) -> Array:
            most = np.minimum(by, width - 1).astype(dtype)
            gone = function(function(a, most), dtype(1))
            return np.where(by < width, function(a, most), gone)

        return Operation((kind, "u32"), kind, shift)

    return make


def _field(kind: str) -> Operation:
    """Extract bits: `length` of them from `start` on, with the sign of the last one where the type has a sign."""

    def extract(a: Array, start: Array, length: Array) -> Array:
        first, count = (start & 255).astype(np.int64), (length & 255).astype(np.int64)
        bits = (a.astype(np.int64) >> np.minimum(first, 63)) & ((1 << np.minimum(count, 32)) - 1)
        if kind == "s32":
            last = np.clip(np.minimum(first + count - 1, 31), 0, 31)
            negative = (count > 0) & ((a.astype(np.int64) >> last) & 1 == 1)
            bits = np.where(negative, bits | (-1 << np.minimum(count, 32)), bits)
        return bits.astype(TYPES[kind][1])

    return Operation((kind, "u32", "u32"), kind, extract)


def _permute(low: Array, high: Array, selector: Array) -> Array:
    """Pick four of the eight bytes of two registers, by a hexadecimal digit each; with 8 added, a byte's sign alone."""
    both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    result: Array = np.zeros(1, np.uint32)
    for place in range(4):
        digit = selector >> np.uint32(4 * place) & np.uint32(15)
        byte = (both >> (digit & np.uint32(7)).astype(np.uint64) * np.uint64(8)).astype(np.uint8)
        byte = np.where(digit > 7, np.where(byte > 127, 255, 0), byte)
        result = result | byte.astype(np.uint32) << np.uint32(8 * place)
    return result


def _compare(name: str, kind: str) -> Operation:
    return Operation((kind, kind), "pred", _COMPARISONS[name])


def _select(kind: str) -> Operation:
    return Operation((kind, kind, "pred"), kind, lambda a, b, which: np.where(which, a, b))


def _to_float(of: str) -> Operation:
    return Operation((of,), "f32", lambda a: a.astype(np.float32))


def _pack(high: Array, low: Array) -> Array:
    """Round two floats to halves, and put them into one register."""
    pair = np.stack(np.broadcast_arrays(low, high), -1).astype(np.float16)
    return pair.view(np.uint32).reshape(-1)


def convert(raw: Array, of: str, to: str) -> Array:
    """Return integers of type `to` from registers that hold `of` in their lowest bits; 8 bits are "s8" and "u8"."""
    narrow, wide = (np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}") for kind in (of, to))
    return raw.astype(narrow).astype(wide)


def _fma(a: Array, b: Array, c: Array) -> Array:
    """Multiply and add with one rounding: the product is exact in float64; the sum is off by far less than float32."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


_COMPARISONS: dict[str, Callable[..., Array]] = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),  # false for NaN, as all but those whose name ends in u
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "neu": np.not_equal,
    # Those whose name ends in u are true for NaN.
    **{
        f"{name}u": lambda a, b, opposite=opposite: ~opposite(a, b)
        for name, opposite in (("lt", np.greater_equal), ("le", np.greater), ("gt", np.less_equal), ("ge", np.less))
    },
}
_EXTREMES: dict[str, Callable[..., Array]] = {"min": np.minimum, "max": np.maximum}
# Of a number and NaN, the number: IEEE's minNum and maxNum.
_NUMBERS: dict[str, Callable[..., Array]] = {"min": np.fmin, "max": np.fmax}
_SUMS: dict[str, Callable[..., Array]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
_LOGIC: dict[str, Callable[..., Array]] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}

_TABLE: list[tuple[str, Callable[..., Operation]]] = [
    (r"mov\.([bus]16|[busf]32|[bus]64|pred)", _same(lambda a: a, 1)),
    (r"(add|sub)\.([su](?:16|32|64))", _chosen(_SUMS)),
    (r"add\.(s16x2)", _same(np.add)),
    (r"mul\.lo\.([su](?:16|32|64))", _same(np.multiply)),
    (r"mul\.wide\.([su](?:16|32))", _mul_wide),
    (r"mul\.hi\.([su](?:16|32))", _mul_hi),
    (r"mad\.lo\.([su](?:16|32|64))", _same(lambda a, b, c: a * b + c, 3)),
    (r"mad\.wide\.([su](?:16|32))", _mad_wide),
    (r"div\.([su]32)", _same(_divide)),
    (r"rem\.([su]32)", _same(lambda a, b: a - _divide(a, b) * b)),
    (r"neg\.(s16|s32|s64|f32)", _same(np.negative, 1)),
    (r"(min|max)\.([su](?:16|32|64))", _chosen(_EXTREMES)),
    (r"(and|or|xor)\.(b16|b32|b64|pred)", _chosen(_LOGIC)),
    (r"not\.(b16|b32|b64|pred)", _same(np.invert, 1)),
    (r"shl\.(b16|b32|b64)", _shift(np.left_shift)),
    (r"shr\.([bsu]16|[bsu]32|[bsu]64)", _shift(np.right_shift)),
    (r"bfe\.([su]32)", _field),
    (r"prmt\.(b32)", _same(_permute, 3)),
    (r"setp\.(eq|ne|lt|le|gt|ge)\.([bsu](?:16|32|64))", _compare),
    (r"setp\.(eq|ne|lt|le|gt|ge|neu|ltu|leu|gtu|geu)\.(f32)", _compare),
    (r"selp\.([bsu]16|[bsuf]32|[bsu]64)", _select),
    (r"cvt\.rn\.f32\.([su]32)", _to_float),
    (r"cvt\.rn\.f16\.f32", lambda: Operation(("f32",), "f16", lambda a: a.astype(np.float16))),
    (r"cvt\.f32\.f16", lambda: Operation(("f16",), "f32", lambda a: a.astype(np.float32))),
    (r"cvt\.rn\.f16x2\.f32", lambda: Operation(("f32", "f32"), "b32", _pack)),
    (r"(add|sub|mul)(?:\.rn)?\.(f32|f32x2)", _chosen(_SUMS)),
    (r"div\.rn\.(f32)", _same(np.divide)),
    (r"sqrt\.rn\.(f32)", _same(np.sqrt, 1)),
    (r"fma\.rn\.(f32|f32x2)", _same(_fma, 3)),
    # Of Blackwell: halves as they are, and float32.
    (r"fma\.rn\.f32\.f16", lambda: Operation(("f16", "f16", "f32"), "f32", _fma)),
    (r"(add|sub)\.(?:rn\.)?f32\.f16", lambda name: Operation(("f16", "f32"), "f32", _SUMS[name])),
    (r"(min|max)\.(f32)", _chosen(_NUMBERS)),
    (r"(min|max)\.NaN\.(f32)", _chosen(_EXTREMES)),
]
"""In the order they are tried. Opcodes have to match wholly."""
