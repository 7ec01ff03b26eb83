from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_runtime import TokenError
from coda_runtime.codes.ids import check_ids, pad_ids, split_ids
from tests.runtime.tiny import CODES, SPEC, TOKENS

GOOD = np.zeros((2, TOKENS), np.int32)


def test_good_ids_are_not_copied() -> None:
    assert np.shares_memory(check_ids(GOOD, SPEC), GOOD)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64", ">i4"])
def test_every_integer_dtype_becomes_int32(dtype: str) -> None:
    ids = np.arange(TOKENS).reshape(1, -1).astype(dtype) % CODES
    checked = check_ids(ids, SPEC)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, ids)


def test_a_masked_array_without_a_mask_is_an_array() -> None:
    assert type(check_ids(np.ma.array(GOOD), SPEC)) is np.ndarray


def test_the_advice_for_a_list_gives_the_ids() -> None:
    np.testing.assert_array_equal(check_ids(np.asarray(GOOD.tolist()), SPEC), GOOD)


def test_the_result_is_contiguous() -> None:
    assert check_ids(np.zeros((2 * TOKENS, 3), np.int32)[::2].T[:, :TOKENS], SPEC).flags.c_contiguous


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([[1]], r"ids is a list; expected an int32 array \[B,n\]: np\.asarray\(ids\)$"),
        ([], "ids is a list"),
        (np.asarray([]), r"ids is empty, float64 \[0\]; expected int32 \[B,n\], at least one row"),
        (np.asarray([[]]), "ids is empty"),
        (np.asarray([[1.5]]), "ids is float64"),
        (None, "ids is a NoneType"),
        (GOOD.astype(np.float32), "ids is float32"),
        (GOOD.astype(bool), "ids is bool"),
        (GOOD.astype(object), "ids is object"),
        (GOOD[0], r"add the batch axis, ids\[None\]"),
        (GOOD[None], r"has shape \[1, 2, 21\]"),
        (GOOD[:0], "the batch is empty"),
        (GOOD[:, :4], "4 tokens a row; expected a whole number of scales, one of 1, 5, 21"),
        (GOOD[:, :0], "0 tokens a row"),
        (np.zeros((1, 22), np.int32), "22 tokens a row"),
        (np.ma.masked_equal(GOOD, 0), "ids is a masked array, and 42 of its 42 values are masked; expected a value"),
        (np.ma.masked_greater(GOOD + 99, 15), "42 values are masked"),
    ],
)
def test_wrong_ids_are_explained(ids: Any, match: str) -> None:
    with pytest.raises(TokenError, match=match):
        check_ids(ids, SPEC)


@pytest.mark.parametrize("value", [-1, CODES, CODES + 1, 2**31 - 1, -(2**31)])
def test_the_first_id_out_of_range_is_named(value: int) -> None:
    ids = GOOD.copy()
    ids[1, 3] = ids[1, 7] = value
    with pytest.raises(TokenError, match=rf"ids\[1, 3\] is {value}; expected 0 to 15"):
        check_ids(ids, SPEC)


def test_large_values_do_not_wrap_into_range() -> None:
    ids = GOOD.astype(np.int64)
    ids[0, 0] = 2**32
    with pytest.raises(TokenError, match="4294967296"):
        check_ids(ids, SPEC)


@given(
    hnp.arrays(st.sampled_from([np.int32, np.int64, np.uint8, np.float32]), hnp.array_shapes(min_dims=1, max_dims=3))
)
def test_any_array_passes_whole_or_is_rejected(ids: Any) -> None:
    try:
        checked = check_ids(ids, SPEC)
    except TokenError:
        return
    assert checked.shape == ids.shape
    assert checked.shape[1] in SPEC.prefix_lengths
    assert 0 <= checked.min() <= checked.max() < CODES


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 3), st.sampled_from([1, 5, 21])), elements=st.integers(0, 15)))
def test_split_is_the_ids_again_and_padding_is_null(ids: Any) -> None:
    parts = split_ids(ids, SPEC)
    assert [part.shape[1:] for part in parts] == [(1, 1), (2, 2), (4, 4)][: len(parts)]
    np.testing.assert_array_equal(np.concatenate([part.reshape(len(ids), -1) for part in parts], axis=1), ids)
    full = pad_ids(ids, SPEC)
    assert full.shape == (len(ids), TOKENS)
    np.testing.assert_array_equal(full[:, : ids.shape[1]], ids)
    assert (full[:, ids.shape[1] :] == CODES).all()
