from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.bench.steady import (
    TOLERANCE,
    Reference,
    at_one_speed,
    median_seconds,
    pairs_at_one_speed,
    reference_seconds,
    same_speed,
)

FAST, SLOW, MIXED = (1.0, 1.03), (1.3, 1.33), (1.0, 1.3)
TIMES = st.floats(0.5, 2)


def test_a_product_takes_time() -> None:
    assert 0 < reference_seconds() < 10


def test_within_the_tolerance_is_one_speed() -> None:
    assert same_speed((1.0, 1.079), None, (1.05, 1.02))
    assert not same_speed((1.0, 1.0), (1.09, 1.09))
    assert same_speed(None, None)


@pytest.mark.parametrize(
    ("references", "kept"),
    [
        ([FAST] * 7, [0, 1, 2, 3, 4, 5, 6]),
        ([SLOW, FAST, FAST, SLOW, FAST, FAST, SLOW, FAST, SLOW, SLOW], [1, 2, 4, 5, 7]),
        ([FAST, FAST, FAST, FAST, SLOW, SLOW, SLOW, SLOW, SLOW], [4, 5, 6, 7, 8]),  # four are too few
        ([FAST, SLOW, SLOW], [1, 2]),
        ([MIXED, FAST, MIXED], [1]),
        ([MIXED, MIXED], []),
        ([FAST, None, SLOW], [0, 1, 2]),
        ([], []),
    ],
)
def test_the_highest_speed_at_which_enough_ran(references: list[Reference], kept: list[int]) -> None:
    assert at_one_speed(references) == kept


@given(st.lists(st.tuples(TIMES, TIMES), max_size=20))
def test_what_is_kept_differs_by_no_more_than_the_tolerance(references: list[Reference]) -> None:
    kept = at_one_speed(references)
    times = [seconds for i in kept for seconds in references[i] or ()]
    assert not times or max(times) <= min(times) * (1 + TOLERANCE)
    assert at_one_speed([references[i] for i in kept]) == list(range(len(kept)))
    assert kept or all(not same_speed(reference) for reference in references)


def test_a_pair_is_of_one_speed_whatever_the_others_are() -> None:
    assert pairs_at_one_speed([FAST, SLOW, FAST, MIXED], [FAST, SLOW, SLOW, FAST]) == [0, 1]
    assert pairs_at_one_speed([None, FAST], [None, FAST, FAST]) == [0, 1]


def test_the_median_of_what_is_known() -> None:
    assert median_seconds([None, (1.0, 2.0), (4.0, 5.0)]) == 3.0
    assert median_seconds([None]) is None
