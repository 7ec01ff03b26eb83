"""Values of a JSON file in messages: short, and found in a moment however much there is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from coda_runtime.io.json_fields import describe


@pytest.mark.parametrize(
    "value", [[[0] * 3_000_000], {"a": {"b": [0] * 3_000_000}}, {"a": "x" * 30_000_000}, [[[[["a" * 10_000_000]]]]]]
)
def test_a_long_value_anywhere_is_cut_before_it_is_written(value: Any) -> None:
    begun = time.process_time()
    text = describe(value)
    assert time.process_time() - begun < 0.05
    assert (len(text), text[-3:]) == (60, "...")


@pytest.mark.parametrize("value", [None, True, 1.5, "a", [], {}, [[1, [2]], {"a": {"b": None}}], list(range(16))])
def test_a_short_value_is_whole(value: Any) -> None:
    assert describe(value) == repr(value)
