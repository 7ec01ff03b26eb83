from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coda_runtime.io.npy import NUMBERS, read_npy, read_npz

REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from([np.float32, np.float64, np.uint8, np.int32, np.bool_, np.dtype(">f4")])


def _npy(array: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **settings)
    return buffer.getvalue()


def _header(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    """A .npy file that says what it likes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@REUSED
@given(shape=st.lists(st.integers(0, 4), max_size=3), dtype=DTYPES, order=st.sampled_from("CF"), packed=st.booleans())
def test_there_and_back(tmp_path: Path, shape: list[int], dtype: Any, order: Any, packed: bool) -> None:
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    (np.savez_compressed if packed else np.savez)(tmp_path / "b.npz", first=array, second=array[None])
    read = read_npz(tmp_path / "b.npz")
    assert list(read) == ["first", "second"]
    for found in (read_npy(tmp_path / "a.npy"), read["first"], read["second"].reshape(shape)):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_npy(np.array([{}], object), allow_pickle=True), "plain numbers"),
        (_npy(np.array(["text"])), "plain numbers"),
        (_npy(np.zeros(2, [("a", "f4")])), "plain numbers"),
        (b"\x80\x04]\x94.", "magic"),
        (b"", "magic"),
        (_npy(np.zeros(9))[:-1], "and its header says float64"),
        (_npy(np.zeros(9)) + b"x", "and its header says float64"),
        (_header("(1000000000000,)"), "which are 4,000,000,000,128"),
        (_header("(65536, 65536, 65536, 65536, 65536)"), "and its header says"),
        (_header("(-4, -1)", data=b"\0" * 16), "and its header says"),
        (_header("(1000000000000, 0)", "|b1"), "more elements than its 128 bytes can hold"),
        (_header("(1000000000000, 0)", "<i8"), "more elements than its 128 bytes can hold"),
        (_header("(0, 1000000000000)"), "more elements than its 128 bytes can hold"),
        (_header("(" * 5000), "."),
        (b"\x93NUMPY\x03\x00" + _header("(1,)", data=b"\0" * 4)[8:], r"\.npy version \(3, 0\)"),
    ],
)
def test_a_file_that_lies_is_rejected_before_anything_is_allocated(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(ValueError, match=words):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=words):
        read_npz(tmp_path / "a.npz")


def test_an_empty_array_is_read_for_what_it_is(tmp_path: Path) -> None:
    """Whoever asked for it says better what it should have held."""
    np.savez(tmp_path / "a.npz", images=np.zeros((0, 256, 256, 3), np.uint8), ids=np.zeros((0, 680), np.int32))
    read = read_npz(tmp_path / "a.npz")
    assert [array.shape for array in read.values()] == [(0, 256, 256, 3), (0, 680)]


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(3,)", "()"])
def test_elements_of_zero_bytes_are_rejected(tmp_path: Path, shape: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", _header(shape, "<U0"))
    with pytest.raises(ValueError, match="more elements than its 128 bytes can hold"):
        read_npz(tmp_path / "a.npz", NUMBERS + "U")


@pytest.mark.parametrize("order", ["<", ">"])
def test_text_of_no_characters_is_rejected(tmp_path: Path, order: str) -> None:
    """str() of it would be a SystemError, wherever the names are first looked at."""
    letters = np.array([[0x65, 0x10FFFF], [0x110000, 0]], f"{order}u4")
    for count in (1, 2):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", _header(f"({count},)", f"{order}U2", letters[:count].tobytes()))
        if count == 1:
            assert read_npz(tmp_path / "a.npz", NUMBERS + "U")["a"].tolist() == ["e\U0010ffff"]
    with pytest.raises(ValueError, match="a character of number 1114112, which is none"):
        read_npz(tmp_path / "a.npz", NUMBERS + "U")


def test_a_bomb_is_rejected_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_runtime.io.unpacking._FREE", 1 << 20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", _npy(np.zeros(1 << 23, np.uint8)))
    assert 100 * path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="it unpacks to 8,388,736 bytes, more than the limit of 1,048,576"):
        read_npz(path)


def test_a_bomb_that_says_it_is_small_is_only_read_as_far_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    data = _npy(np.zeros(1 << 20, np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    size = len(data).to_bytes(4, "little")
    raw = path.read_bytes()
    assert raw.count(size) == 2, "in the file's own header and in the archive's directory"
    path.write_bytes(raw.replace(size, (200).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_npz(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_rejected(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("a.npy", _npy(np.zeros(3)))
    with pytest.raises(ValueError, match="expected none or deflate"):
        read_npz(tmp_path / "a.npz")


def test_what_is_no_archive_of_arrays_is_rejected(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("../../evil.sh", "rm")
    for name, words in (("one.npy", "zip"), ("text.npz", "expected .npy files"), ("none.npz", "No such file")):
        with pytest.raises(ValueError, match=words):
            read_npz(tmp_path / name)
