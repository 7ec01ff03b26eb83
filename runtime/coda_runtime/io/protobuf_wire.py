"""The wire format of protobuf messages: their fields, without a schema, and without making objects of what they hold.

A message is a row of fields; each begins with a varint of its number and its wire type. What a field holds is not
looked at here, so that callers may jump over gigabytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping

Buffer = mmap.mmap | bytes

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types; 3 and 4, groups, have been out of use since before the formats that are read here."""

_FIXED = {FIXED64: 8, FIXED32: 4}
MAX_VARINT = 10  # bytes of one of 64 bits
_SHORT = {VARINT: 1, LENGTH_DELIMITED: 2}  # bytes before the value, where tag and length are a byte each
_LONGEST_OF_32_BITS = 5  # tags and lengths
_TRUNCATED = "it is truncated, or a length in it is wrong"

Span = tuple[int, int, int]
"""Wire type, start and end of a field's value."""


class WireError(Exception):
    """The bytes are no message of their format; the argument says why, with the message as "it"."""


def read_fields(data: Buffer, at: int, end: int, of: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start and end of the value) of a message, which must fit from `at` to `end`.

    Of a varint, the value is its bytes as they stand. `of` is what the message is of, for errors. Raises WireError when
    it comes to bytes that are no field.
    """
    while at < end:
        field, wire, start, at = _field(data, at, end, of)
        yield field, wire, start, at


def select_fields(
    data: Buffer,
    at: int,
    end: int,
    of: str,
    wanted: Mapping[int, frozenset[int]],
    once: frozenset[int],
    max_fields: int,
) -> tuple[dict[int, list[Span]], int]:
    """Return the wanted fields of a message by their number, and how many fields it has in all.

    `wanted` has the wire types that each may have, `once` those that there may be one of. As `read_fields`, but in one
    loop: a graph has ten thousand fields, nearly all with a tag and a length of a single byte. It stops after
    `max_fields`, and tells one more. Raises WireError.
    """
    found: dict[int, list[Span]] = {}
    count, last = 0, end - 1
    while at < end:
        tag = data[at]
        if 7 < tag < 0x80 and at < last and (size := data[at + 1]) < 0x80 and tag & 7 in _SHORT:
            field, wire, start = tag >> 3, tag & 7, at + _SHORT[tag & 7]
            at = start + size if wire else at + 2
            if at > end:
                raise WireError(_TRUNCATED)
        else:
            field, wire, start, at = _field(data, at, end, of)
        count += 1
        if count > max_fields:
            break
        if field in wanted:
            if wire not in wanted[field]:
                raise WireError(f"field {field} has wire type {wire}")
            if field not in found:
                found[field] = [(wire, start, at)]
            elif field in once:  # readers differ in which of two they believe
                raise WireError(f"field {field} appears twice where there can be one")
            else:
                found[field].append((wire, start, at))
    return found, count


def _field(data: Buffer, at: int, end: int, of: str) -> tuple[int, int, int, int]:
    """Return the field that begins at `at`, as `read_fields` yields it."""
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
        raise WireError(_TRUNCATED)
    return field, wire, start, at


def read_ints(data: Buffer, wire: int, start: int, end: int) -> list[int]:
    """Return the numbers of a field of int64, int32 or an enumeration: one, or where it is packed all of them.

    What is longer than 64 bits is cut to them, as readers do. Raises WireError.
    """
    if wire not in (VARINT, LENGTH_DELIMITED):
        raise WireError(f"a number has wire type {wire}")
    found = []
    while start < end:
        value, start = read_varint(data, start, end, MAX_VARINT)
        value &= (1 << 64) - 1
        found.append(value - (1 << 64) if value >> 63 else value)
    return found


def read_number(varint: bytes) -> int:
    """Return the number of 64 bits, which may be negative, that a varint's bytes stand for. Raises WireError."""
    return read_ints(varint, VARINT, 0, len(varint))[0]


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
