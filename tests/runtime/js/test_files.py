"""Checksums, arrays and archives of runtime/js: hashlib's, NumPy's, zipfile's."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coda_runtime.codes.resample import upsample
from tests.runtime.js.bridge import Bridge, JsError


@given(data=st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_sha256(js: Bridge, data: bytes) -> None:
    expected = hashlib.sha256(data).hexdigest()
    assert js("sha256.js", "sha256", data) == expected
    assert js("sha256.js", "sha256InScript", data) == expected


@pytest.mark.parametrize("length", [0, 55, 56, 63, 64, 65, 119, 120, 100_000])
def test_sha256_where_blocks_end(js: Bridge, length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert js("sha256.js", "sha256InScript", data) == hashlib.sha256(data).hexdigest()


@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9), min_size=1)
)
@settings(max_examples=30, deadline=None)
def test_words_are_numpy_s(js: Bridge, words: list[str]) -> None:
    written = js("npy.js", "writeNpy", "<U", [len(words)], words)
    assert np.load(io.BytesIO(bytes(written))).tolist() == words
    file = io.BytesIO()
    np.save(file, np.array(words))
    assert js("npy.js", "readNpy", file.getvalue()) == {"shape": [len(words)], "data": words}


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"])
def test_whole_numbers_are_numpy_s(js: Bridge, dtype: str) -> None:
    array = np.array([[0, 1, 100], [-1 if "i" in dtype else 2, 3, 4]]).astype(dtype)
    file = io.BytesIO()
    np.save(file, array)
    found = js("npy.js", "readNpy", file.getvalue())
    assert (found["shape"], found["data"]) == ([2, 3], array.ravel().tolist())


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1.5]), "expected whole numbers, float32 or words"),
        (np.array([1j]), "expected whole numbers, float32 or words"),
        (np.array([1], dtype=">i4"), "expected whole numbers, float32 or words"),
        (np.zeros((2, 3), dtype="<i4", order="F"), "is not a row-major array"),
    ],
    ids=["f8", "c16", "big-endian", "column-major"],
)
def test_other_arrays_are_refused(js: Bridge, array: NDArray[Any], expected: str) -> None:
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(JsError, match=expected):
        js("npy.js", "readNpy", file.getvalue())


@given(contents=st.dictionaries(st.text("abé", min_size=1, max_size=5), st.binary(max_size=200), max_size=4))
@settings(max_examples=30, deadline=None)
def test_archives_are_read_and_written(js: Bridge, contents: dict[str, bytes]) -> None:
    entries = [[f"{name}.npy", data] for name, data in contents.items()]
    written = bytes(js("zip.js", "writeZip", entries))
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        assert archive.testzip() is None
        assert [archive.read(info) for info in archive.infolist()] == [data for _, data in entries]
        assert archive.namelist() == [name for name, _ in entries]


def test_upsampling_is_the_quantizer_s(js: Bridge) -> None:
    """The latent of one scale's codes, for squares and rectangles."""
    random = np.random.default_rng(4)
    table = random.standard_normal((32, 3)).astype(np.float32)
    for shape, latent in (((2, 3), (4, 6)), ((1, 1), (5, 7)), ((3, 3), (8, 8)), ((4, 6), (4, 6))):
        ids = random.integers(0, 32, shape).astype(np.int32)
        count = int(np.prod(shape))
        spec = {
            "latentChannels": 3, "latentHeight": latent[0], "latentWidth": latent[1],
            "scales": [list(shape)], "prefixLengths": [count],
        }  # fmt: skip
        found = js("embed.js", "embed", ids, table, spec).reshape(3, *latent)
        assert np.allclose(found, upsample(table[ids].transpose(2, 0, 1), latent), atol=1e-5)
