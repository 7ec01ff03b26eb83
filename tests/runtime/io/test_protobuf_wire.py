"""Fields of protobuf messages: as protobuf itself reads them, and an error for whatever is none."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.io.protobuf_wire import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    WireError,
    make_field,
    make_number,
    read_fields,
    read_ints,
    read_number,
    select_fields,
)


def _read(data: bytes) -> list[tuple[int, int, bytes]]:
    return [(field, wire, data[start:stop]) for field, wire, start, stop in read_fields(data, 0, len(data), "X")]


def test_each_wire_type() -> None:
    data = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x03abc" + b"\x25" + bytes(4) + b"\x82\x7d\x00"
    assert _read(data) == [
        (1, VARINT, b"\x96\x01"),
        (2, FIXED64, bytes(8)),
        (3, LENGTH_DELIMITED, b"abc"),
        (4, FIXED32, bytes(4)),
        (2000, LENGTH_DELIMITED, b""),
    ]
    assert list(read_fields(data, 12, 17, "X")) == [(3, LENGTH_DELIMITED, 14, 17)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80", "it is truncated, or a number in it is too long"),
        (b"\x0a", "it is truncated, or a number in it is too long"),
        (b"\x0a\x02a", "it is truncated, or a length in it is wrong"),
        (b"\x0d\0\0\0", "it is truncated, or a length in it is wrong"),
        (b"\x08" + b"\x80" * 10 + b"\x00", "it is truncated, or a number in it is too long"),
        (b"\x0a" + b"\x80" * 5 + b"\x00", "it is truncated, or a number in it is too long"),
        (b"\x02\x00", "a field has the number 0"),
        (b"\x0b", "field 1 has wire type 3, which X does not use"),
    ],
)
def test_bytes_that_are_no_fields(data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=f"^{why}$"):
        _read(data)


BYTES = frozenset({LENGTH_DELIMITED})


@given(
    st.lists(st.tuples(st.integers(1, 20), st.sampled_from([VARINT, LENGTH_DELIMITED, FIXED32]))), st.integers(0, 40)
)
def test_fields_that_are_selected_are_those_that_are_read(fields: list[tuple[int, int]], cut: int) -> None:
    values = {VARINT: b"\x07", LENGTH_DELIMITED: b"\x02ab", FIXED32: bytes(4)}
    data = b"".join(bytes([field << 3 | wire, *([1] if field > 15 else [])]) + values[wire] for field, wire in fields)
    data = data[: len(data) - cut] if cut < 20 else data
    every = dict.fromkeys(range(1, 3000), frozenset(values))
    try:
        found, count = select_fields(data, 0, len(data), "X", every, frozenset(), 1000)
    except WireError as error:
        with pytest.raises(WireError, match=str(error)):
            _read(data)
        return
    read = list(read_fields(data, 0, len(data), "X"))
    assert count == len(read)
    spans = sorted((start, field, wire, end) for field, parts in found.items() for wire, start, end in parts)
    assert spans == sorted((start, field, wire, end) for field, wire, start, end in read)


def test_fields_that_are_not_as_they_are_selected() -> None:
    data = b"\x0a\x01a\x0a\x01b\x10\x07"
    assert select_fields(data, 0, 8, "X", {1: BYTES}, frozenset(), 3) == ({1: [(2, 2, 3), (2, 5, 6)]}, 3)
    assert select_fields(data, 0, 8, "X", {1: BYTES}, frozenset(), 1) == ({1: [(2, 2, 3)]}, 2)
    for wanted, once, why in (
        ({1: BYTES}, frozenset({1}), "field 1 appears twice where there can be one"),
        ({2: BYTES}, frozenset[int](), "field 2 has wire type 0"),
    ):
        with pytest.raises(WireError, match=f"^{why}$"):
            select_fields(data, 0, 8, "X", wanted, once, 3)


def test_numbers() -> None:
    assert read_ints(b"\x07", VARINT, 0, 1) == [7]
    assert read_ints(b"\x07\x96\x01", LENGTH_DELIMITED, 0, 3) == [7, 150]
    assert read_ints(b"\xff" * 9 + b"\x01", VARINT, 0, 10) == [-1]
    for wire, data in ((FIXED32, bytes(4)), (VARINT, b"\x80")):
        with pytest.raises(WireError):
            read_ints(data, wire, 0, len(data))


@given(st.binary(max_size=30))
def test_what_is_read_is_what_protobuf_reads(data: bytes) -> None:
    try:
        found = [(field, wire) for field, wire, _ in _read(data)]
    except WireError:
        return
    message = FieldDescriptorProto()
    try:
        message.ParseFromString(data)
    except Exception:  # a known field of another type, or text that is not UTF-8, is no matter of the wire
        return
    unknown = [(field.field_number, field.wire_type) for field in UnknownFieldSet(message)]
    assert set(unknown) <= set(found)


@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=300))
def test_what_is_made_is_read(number: int, data: bytes) -> None:
    assert read_number(make_number(number)) == number
    message = make_field(3, number) + make_field(400, data)
    fields = list(read_fields(message, 0, len(message), "a test"))
    assert [(field, wire) for field, wire, *_ in fields] == [(3, VARINT), (400, LENGTH_DELIMITED)]
    first, second = (message[start:end] for *_, start, end in fields)
    assert (read_number(first), second) == (number, data)
