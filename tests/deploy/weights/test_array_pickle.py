"""Arrays as `pickle` reads them, and everything else refused by its name with nothing run."""

from __future__ import annotations

import os
import pickle
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_deploy import WeightsError
from coda_deploy.weights.array_pickle import MAX_ARRAYS, MAX_DEPTH, MAX_INSTRUCTIONS, MAX_KEY, read_arrays

ARRAYS = hnp.arrays(
    hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
)


@given(
    st.dictionaries(st.text("abc_0", min_size=1), ARRAYS, max_size=4),
    st.sampled_from([3, 4]),
)
def test_arrays_are_those_that_pickle_reads(arrays: dict[str, Any], protocol: int) -> None:
    data = pickle.dumps({"net": {"inner": arrays}, **arrays}, protocol)
    found = read_arrays(data, "x.ckpt")
    expected = {f"net/inner/{name}": array for name, array in arrays.items()} | arrays
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_columns_first_and_one_array_under_two_names() -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = read_arrays(pickle.dumps({"a": array, "b": array}, 4), "x.ckpt")
    np.testing.assert_array_equal(found["a"], array)
    np.testing.assert_array_equal(found["b"], array)


class Calls:
    """Its pickle calls a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._call


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_rejected_by_its_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "ran"
    shell, builtin = Calls(os.system, f"mkdir {target}"), Calls(exec, f"import os; os.mkdir({str(target)!r})")
    for hostile, name in ((shell, r"posix\.system"), (builtin, r"(__builtin__|builtins)\.exec")):
        for content in (hostile, {"a": np.ones(2, np.float32), "b": hostile}, {"a": {"b": [hostile]}}):
            with pytest.raises(WeightsError) as caught:
                read_arrays(pickle.dumps(content, protocol), "evil.ckpt")
            told = str(caught.value)
            assert told.startswith("evil.ckpt was rejected, and nothing in it was run: it holds the ")
            assert "instruction" in told or "name" in told
            if protocol in (3, 4) and not isinstance(content, dict):
                assert re.search(f"it holds the name '{name}';", told)
    assert not target.exists()
    # It would have: the pickle works.
    pickle.loads(pickle.dumps(builtin, protocol))
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([np.ones(2)], "the instruction EMPTY_LIST"),
        (np.ones(2), r"something other than dictionaries of arrays \(Pending\)"),
        ({"a": 1.5}, "the instruction BINFLOAT"),
        ({"a": 7}, r"something other than dictionaries of arrays \(int\)"),
        ({"a": "text"}, r"something other than dictionaries of arrays \(str\)"),
        ({1: np.ones(2)}, "a dictionary whose keys are not text"),
        ({"a": np.array([object()])}, r"an array of element type 'O8'"),
        ({"a": np.array([1, 2])}, r"an array of element type 'i8'"),
        ({"a": np.array([(1, 2.0)], "i4,f4")}, r"an array of element type 'V8'"),
        ({"a": np.float32(1)}, r"the name 'numpy\.(_core|core)\.multiarray\.scalar'"),
        ({"a": np.ones(2).view(np.recarray)}, r"the name 'numpy(\.rec)?\.recarray'"),
        ({"a": Path("x")}, r"the name 'pathlib\.PosixPath'"),
        ({"a": {1, 2}}, "the (instruction EMPTY_SET|name)"),
    ],
)
def test_what_is_no_float_array_is_rejected(content: object, told: str) -> None:
    with pytest.raises(WeightsError, match=f"nothing in it was run: it holds {told}"):
        read_arrays(pickle.dumps(content, 4), "x.ckpt")


def test_names_that_are_known_make_nothing_else() -> None:
    """Arrays of a size that the file does not hold, and what NumPy would do with other arguments."""
    ndarray, dtype = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
    for call in (
        ndarray + b"(J\xff\xff\xff\x7ftR",  # ndarray(2147483647): 16 GB
        dtype + b"(X\x08\x00\x00\x00(9999)f4\x89\x88tR",
        b"cnumpy.core.multiarray\n_reconstruct\n" + dtype + b"(K\x00tC\x01btR",
        ndarray + b"}b",
    ):
        with pytest.raises(WeightsError, match=r"evil (was rejected, and nothing in it was run|is truncated, damaged)"):
            read_arrays(b"\x80\x03" + call + b".", "evil")


def whole() -> bytes:
    return pickle.dumps({"a": {"w": np.arange(8, dtype=np.float32)}, "b": np.ones((2, 2))}, 3)


@pytest.mark.parametrize("size", range(0, len(whole()), 7))
def test_a_cut_file_is_rejected(size: int) -> None:
    with pytest.raises(
        WeightsError, match=r"x\.ckpt is truncated, damaged, or not a pickle of NumPy arrays \(\w+\); take the"
    ):
        read_arrays(whole()[:size], "x.ckpt")


@given(st.binary(max_size=200), st.integers(0, len(whole()) - 1))
def test_any_bytes_are_read_or_rejected(noise: bytes, place: int) -> None:
    data = whole()[:place] + noise + whole()[place + len(noise) :]
    try:
        found = read_arrays(data, "x.ckpt")
    except WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


def test_a_small_file_takes_little_time_and_memory() -> None:
    head, itself = b"\x80\x03}q\x00", b"".join(b"X\x01\x00\x00\x00" + bytes([97 + i]) + b"h\x00s" for i in range(20))
    for loops in (itself, itself[:9]):  # of twenty keys, and of one
        with pytest.raises(WeightsError, match=f"dictionaries more than {MAX_DEPTH} deep"):
            read_arrays(head + loops + b".", "loops")
    many = {f"{i}": {f"{j}": np.ones(1, np.float32) for j in range(35)} for i in range(35)}
    with pytest.raises(WeightsError, match=f"more than {MAX_ARRAYS} arrays"):
        read_arrays(pickle.dumps(many, 4), "many")
    with pytest.raises(WeightsError, match=f"more than {MAX_INSTRUCTIONS:,} instructions"):
        read_arrays(b"\x80\x03" + b"N" * (MAX_INSTRUCTIONS + 5) + b".", "long")
    with pytest.raises(WeightsError, match="truncated, damaged"):  # 2^40 bytes that are not there
        read_arrays(b"\x80\x04\x8e" + struct.pack("<Q", 2**40), "large")
    # A memo's index of 4 billion, for which `pickle` makes a table of 64 GB.
    assert read_arrays(b"\x80\x04}r\xff\xff\xff\xff.", "sparse") == {}
    # 2^60 elements by doubling a tuple.
    doubled = b"N" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    with pytest.raises(WeightsError):
        read_arrays(b"\x80\x04" + doubled + b"\x93.", "doubled")


def test_a_dictionary_that_holds_itself_under_a_long_key_ends_at_once() -> None:
    """Its paths would be a thousand times the key: gigabytes out of a file of megabytes."""
    key = b"k" * 5_000_000
    data = b"\x80\x03}q\x00X" + struct.pack("<I", len(key)) + key + b"h\x00s."
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=f"a key of more than {MAX_KEY} characters"):
            read_arrays(data, "long")
        assert tracemalloc.get_traced_memory()[1] < 6 * len(data)
    finally:
        tracemalloc.stop()


def test_keys_and_depths_up_to_the_bounds_are_read() -> None:
    deep: Any = np.ones(1, np.float32)
    for _ in range(MAX_DEPTH):
        deep = {"k" * MAX_KEY: deep}
    assert list(read_arrays(pickle.dumps(deep, 4), "deep")) == ["/".join(["k" * MAX_KEY] * MAX_DEPTH)]
    with pytest.raises(WeightsError, match=f"dictionaries more than {MAX_DEPTH} deep"):
        read_arrays(pickle.dumps({"a": deep}, 4), "deeper")
