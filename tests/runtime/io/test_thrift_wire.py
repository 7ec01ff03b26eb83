from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.io.protobuf_wire import WireError
from coda_runtime.io.thrift_wire import read_struct

PAGE = bytes.fromhex("150015c80115a0012c150a15001506150600" + "00")
"""A page's header: 0, 100 and 80 bytes, and in field 5 its own, of 5 values."""


def test_the_header_of_a_page() -> None:
    assert read_struct(PAGE + b"rest", 0, len(PAGE) + 4) == ({1: 0, 2: 100, 3: 80, 5: {1: 5, 2: 0, 3: 3, 4: 3}}, 19)
    negative, text, wide, flags, float64 = "1503", "180461626364", "1680808080808080808001", "1112", "17" + "00" * 8
    found = bytes.fromhex(negative + text + wide + flags + float64 + "0528" + "02" + "00")
    assert read_struct(found, 0, len(found)) == ({1: -2, 20: 1}, len(found))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("", "truncated"),
        ("15", "truncated"),
        ("1502", "truncated"),
        ("1815", "truncated"),
        ("18ffffffff0f", "truncated"),
        ("15ffffffffffffffffffff01", "number in it is too long"),
        ("158080808020", "more than 32 bits"),
        ("0580800802", "field has the number 65536"),
        ("050002", "field has the number 0"),
        ("19150002", "wire type 9"),
        ("1c" * 9, "wire type 12"),
    ],
)
def test_what_is_none(data: str, told: str) -> None:
    with pytest.raises(WireError, match=told):
        read_struct(bytes.fromhex(data), 0, len(data) // 2)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        _, end = read_struct(data, 0, len(data))
    except WireError:
        return
    assert 0 < end <= len(data) or b"\x08" in data or any(byte & 15 == 8 for byte in data)
