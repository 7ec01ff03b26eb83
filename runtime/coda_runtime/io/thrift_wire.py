"""The compact wire format of Thrift, as far as the headers of Parquet's pages use it: no lists, sets or maps."""

from __future__ import annotations

from .protobuf_wire import MAX_VARINT, Buffer, WireError, read_varint

Struct = dict[int, "int | Struct"]
"""{field number: a number of 32 bits, or a struct}; what else there is is passed over."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_SIZES = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}
_DEEPEST = 8


def read_struct(data: Buffer, at: int, end: int, depth: int = _DEEPEST) -> tuple[Struct, int]:
    """Read the struct that begins at `at` -> (its fields, where it ends). Raises WireError, also for lists in it."""
    found: Struct = {}
    field = 0
    while True:
        if at >= end:
            raise WireError("it is truncated")
        head = data[at]
        at += 1
        if head == 0:
            return found, at
        kind, step = head & 15, head >> 4
        if step:
            field += step
        else:
            field, at = _number(data, at, end)
        # Thrift's own reader cuts numbers to their type's bits, so it would find another one than is here.
        if not 0 < field < 1 << 15:
            raise WireError(f"a field has the number {field}")
        if kind == _I32:
            value, at = _number(data, at, end)
            if not -(1 << 31) <= value < 1 << 31:
                raise WireError(f"field {field} is {value}, more than 32 bits")
            found[field] = value
        elif kind in (_I16, _I64):
            _, at = _number(data, at, end)
        elif kind == _BINARY:
            size, at = read_varint(data, at, end, MAX_VARINT)
            at += size
        elif kind == _STRUCT and depth > 1:
            found[field], at = read_struct(data, at, end, depth - 1)
        elif kind in _SIZES:
            at += _SIZES[kind]
        else:
            raise WireError(f"field {field} has wire type {kind}, which is not expected there")


def _number(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return (a signed number, where it ends)."""
    value, at = read_varint(data, at, end, MAX_VARINT)
    return (value >> 1) ^ -(value & 1), at
