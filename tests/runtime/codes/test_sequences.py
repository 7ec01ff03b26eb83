"""Ids as a language model's tokens, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import InputError, TokenError
from coda_runtime.codes.sequences import Sequences
from tests.runtime import tiny

SEPARATORS = st.fixed_dictionaries(
    {}, optional={"begin": st.just(1), "scale": st.integers(2, 3), "end": st.integers(100, 300)}
)


@given(offset=st.sampled_from([10, 84]), separators=SEPARATORS, seed=st.integers(0, 9), data=st.data())
def test_there_and_back(offset: int, separators: dict[str, int], seed: int, data: st.DataObject) -> None:
    rule = Sequences(tiny.SPEC, offset, separators)
    ids = np.random.default_rng(seed).integers(0, tiny.CODES, (3, tiny.TOKENS), np.int32)
    tokens = rule.pack(ids)
    assert (tokens.shape, tokens.dtype) == ((3, rule.length), np.int64)
    assert tokens.max() < rule.vocab_size
    np.testing.assert_array_equal(rule.unpack(tokens), ids)
    codes = tokens[(tokens >= offset) & (tokens < offset + tiny.CODES)]
    np.testing.assert_array_equal(codes.reshape(3, -1) - offset, ids)
    scales = data.draw(st.integers(1, 2))
    known = sum(side * side for side in tiny.SCALES[:scales])
    prefix = known + ("begin" in separators) + ("scale" in separators) * (scales - 1)
    np.testing.assert_array_equal(rule.unpack(tokens[:, :prefix]), ids[:, :known])


def test_where_they_stand() -> None:
    ids = np.arange(tiny.TOKENS) % tiny.CODES
    tokens = Sequences(tiny.SPEC, 100, {"begin": 1, "scale": 2, "end": 3}).pack(ids).tolist()
    assert tokens[:9] == [1, 100, 2, 101, 102, 103, 104, 2, 105]
    assert tokens[-2:] == [104, 3]
    np.testing.assert_array_equal(Sequences(tiny.SPEC).pack(ids), ids)


def test_what_does_not_fit() -> None:
    with pytest.raises(
        InputError, match=r"the separator 'begin' is 20; expected a token outside the codes, .* 10 to 25"
    ):
        Sequences(tiny.SPEC, 10, {"begin": 20})
    with pytest.raises(InputError, match="separators has 'eos'"):
        Sequences(tiny.SPEC, 10, {"eos": 1})
    for offset in (-1, 1.5, None, 2**63):
        with pytest.raises(InputError, match=f"offset is {offset}; expected 0 or more, a whole number"):
            Sequences(tiny.SPEC, offset)  # type: ignore[arg-type]
    for token in (None, "<img>", -1, 3.5):
        with pytest.raises(InputError, match=r"the separator 'begin' is .*; expected the number of a token, from 0"):
            Sequences(tiny.SPEC, 10, {"begin": token})  # type: ignore[dict-item]
    rule = Sequences(tiny.SPEC, 10, {"begin": 1, "end": 2})
    tokens = rule.pack(np.zeros((2, tiny.TOKENS), np.int32))
    for place, token, told in [
        (0, 7, "token 0 of a row is 7; expected the separator 1"),
        (5, 26, "a token that is no code; expected 10 to 25"),
    ]:
        wrong = tokens.copy()
        wrong[0, place] = token
        with pytest.raises(TokenError, match=told):
            rule.unpack(wrong)
    with pytest.raises(TokenError, match="a row has 4 tokens; expected 23"):
        rule.unpack(tokens[:, :4])


@pytest.mark.parametrize("separators", [{}, {"end": 2}])
def test_arrays_that_do_not_fit(separators: dict[str, int]) -> None:
    rule = Sequences(tiny.SPEC, 10, separators)
    ids = np.zeros((2, tiny.TOKENS), np.int32)
    tokens = rule.pack(ids)
    for known in (1, 5):  # the first scale's one id was taken for all of the row
        with pytest.raises(TokenError, match=f"ids has {known} tokens? a row; expected all 21 of an image"):
            rule.pack(ids[:, :known])
    for name, turn, array in (("ids", rule.pack, ids), ("tokens", rule.unpack, tokens)):
        with pytest.raises(TokenError, match=rf"{name} is float64 \[2, .*; expected an array of numpy"):
            turn(array + 0.5)
        with pytest.raises(TokenError, match=f"{name} is a list; expected an array of numpy"):
            turn(array.tolist())  # type: ignore[arg-type]
        with pytest.raises(TokenError, match=f"{name} is a masked array"):
            turn(np.ma.masked_array(array, array == array[0, 0]))
    np.testing.assert_array_equal(rule.unpack(rule.pack(ids.astype(np.uint16)).astype(np.uint16)), ids)
