"""Tar files whose headers somebody made to hang or to crash who reads them."""

from __future__ import annotations

import io
import tarfile
import time

import pytest

from coda_runtime.bulk.tars import members
from coda_runtime.errors import InputError
from coda_runtime.io.omitted import Omitted

END = b"\0" * 1024
DIGITS = b"1" * 2_000_000


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def member(kind: bytes, data: bytes, name: str = "a.jpg") -> bytes:
    return header(name, len(data), kind) + data + b"\0" * (-len(data) % 512)


def record(key: str, value: bytes) -> bytes:
    """A record of a pax header, which begins with its own length."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


PHOTO = member(tarfile.REGTYPE, b"abc")
SPARSE = record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0")


@pytest.mark.parametrize(
    "data",
    [
        member(tarfile.XHDTYPE, record("comment", b"x")) * 3000 + PHOTO,
        member(tarfile.XGLTYPE, record("comment", b"x")) * 3000 + PHOTO,
        member(tarfile.GNUTYPE_LONGNAME, b"name\0") * 3000 + PHOTO,
        member(tarfile.GNUTYPE_LONGLINK, b"name\0") * 3000 + PHOTO,
        member(tarfile.XHDTYPE, DIGITS) + PHOTO,
        member(tarfile.XHDTYPE, record("size", DIGITS)) + PHOTO,
        member(tarfile.XHDTYPE, record("size", b"9" * 5000)) + PHOTO,
        member(tarfile.GNUTYPE_LONGNAME, b"x" * 2_000_000) + PHOTO,
        member(tarfile.XHDTYPE, SPARSE) + member(tarfile.REGTYPE, DIGITS),
        member(tarfile.XHDTYPE, SPARSE) + member(tarfile.REGTYPE, b"5\n1\n2\n"),
        member(tarfile.XHDTYPE, record("GNU.sparse.map", b"1," * 500_000 + b"1")) + PHOTO,
    ],
    ids=[
        "pax", "global pax", "long names", "long links", "digits", "a long number", "a number", "a long name",
        "a sparse map of digits", "a cut sparse map", "a long sparse map",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", [END, b""], ids=["whole", "cut"])
def test_headers_made_to_hang_are_refused(data: bytes, end: bytes) -> None:
    started = time.process_time()
    with pytest.raises(InputError, match=r"evil\.tar .*copy or download it again"):
        list(members(io.BytesIO(data + end), len(data + end), "evil.tar", Omitted()))
    assert time.process_time() - started < 2


def test_long_names_and_attributes_are_taken() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(200):
            info = tarfile.TarInfo(f"{'folder/' * 500}{number}é.jpg")
            info.size, info.pax_headers = 3, {"SCHILY.xattr.user.note": "x" * 10_000}
            archive.addfile(info, io.BytesIO(b"abc"))
    data = buffer.getvalue()
    found = list(members(io.BytesIO(data), len(data), "a.tar", Omitted()))
    assert len(found) == 200
    assert all(data[offset : offset + size] == b"abc" for _, offset, size in found)
