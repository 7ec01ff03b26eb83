"""The wire format of protobuf messages: their fields, without a schema, and without making objects of what they hold.

A message is a row of fields; each begins with a varint of its number and its wire type. What a field holds is not
looked at here, so that callers may jump over gigabytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Buffer = mmap.mmap | bytes

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types; 3 and 4, groups, have been out of use since before the formats that are read here."""

_FIXED = {FIXED64: 8, FIXED32: 4}
MAX_VARINT = 10  # bytes of one of 64 bits
_LONGEST_OF_32_BITS = 5  # tags and lengths


class WireError(Exception):
    """The bytes are no message of their format; the argument says why, with the message as "it"."""


def read_fields(data: Buffer, at: int, end: int, of: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start and end of the value) of a message, which must fit from `at` to `end`.

    Of a varint, the value is its bytes as they stand. `of` is what the message is of, for errors. Raises WireError when
    it comes to bytes that are no field.
    """
    while at < end:
        tag, at = read_varint(data, at, end, _LONGEST_OF_32_BITS)
        field, wire = tag >> 3, tag & 7
        if field == 0 or tag >> 32:
            raise WireError(f"a field has the number {field}")
        start = at
        if wire == LENGTH_DELIMITED:
            size, start = read_varint(data, at, end, _LONGEST_OF_32_BITS)
            at = start + size
        elif wire == VARINT:
            _, at = read_varint(data, at, end, MAX_VARINT)
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise WireError(f"field {field} has wire type {wire}, which {of} does not use")
        if at > end:
            raise WireError("it is truncated, or a length in it is wrong")
        yield field, wire, start, at


def read_number(varint: bytes) -> int:
    """Return the number of 64 bits, which may be negative, that a varint's bytes stand for. Raises WireError."""
    value, _ = read_varint(varint, 0, len(varint), MAX_VARINT)
    return value - (1 << 64) if value >> 63 else value


def make_number(value: int) -> bytes:
    """Return the varint of a number of 64 bits, which may be negative."""
    value %= 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def make_field(number: int, value: bytes | int) -> bytes:
    """Return a field: its tag, then bytes with their length before them, or a varint."""
    if isinstance(value, int):
        return make_number(number << 3 | VARINT) + make_number(value)
    return make_number(number << 3 | LENGTH_DELIMITED) + make_number(len(value)) + value


def read_varint(data: Buffer, at: int, end: int, longest: int) -> tuple[int, int]:
    """Return (a varint of at most `longest` bytes, where it ends)."""
    if at < end and (first := data[at]) < 0x80:
        return first, at + 1
    value = shift = 0
    for position in range(at, min(end, at + longest)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise WireError("it is truncated, or a number in it is too long")
