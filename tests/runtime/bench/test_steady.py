from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.bench.steady import (
    OTHERS,
    TOLERANCE,
    Circumstances,
    median_seconds,
    reference_seconds,
    same_speed,
    undisturbed,
    undisturbed_pairs,
)

TIMES = st.floats(0.5, 2)


def process(*seconds: float, others: float | None = 0.0) -> Circumstances:
    return {"reference_s": list(seconds) or None, "others": others}


FAST, SLOW, MIXED = process(1.0, 1.03), process(1.3, 1.33), process(1.0, 1.3)
BUSY, UNKNOWN = process(1.0, 1.0, others=0.06), process(others=None)


def test_a_product_takes_time() -> None:
    assert 0 < reference_seconds() < 10


def test_within_the_tolerance_is_one_speed() -> None:
    assert same_speed([1.0, 1.079, 1.05])
    assert not same_speed([1.0, 1.0, 1.09])
    assert same_speed([])


@pytest.mark.parametrize(
    ("processes", "kept"),
    [
        ([FAST] * 7, [0, 1, 2, 3, 4, 5, 6]),
        ([SLOW, FAST, FAST, SLOW, FAST, FAST, SLOW, FAST, SLOW, SLOW], [1, 2, 4, 5, 7]),
        ([FAST, FAST, FAST, FAST, SLOW, SLOW, SLOW, SLOW, SLOW], [4, 5, 6, 7, 8]),  # four are too few
        ([FAST, SLOW, SLOW], [1, 2]),
        ([FAST, BUSY, FAST], [0, 2]),
        ([MIXED, FAST, MIXED], [1]),
        ([MIXED, MIXED, BUSY], []),
        ([UNKNOWN, UNKNOWN, BUSY], [0, 1]),
        ([{}, {}], [0, 1]),  # of an earlier version
        ([], []),
    ],
)
def test_the_highest_speed_at_which_enough_ran(processes: list[Circumstances], kept: list[int]) -> None:
    assert undisturbed(processes) == kept


@given(st.lists(st.builds(lambda a, b, others: process(a, b, others=others), TIMES, TIMES, st.floats(0, 0.1))))
def test_what_is_kept_was_alone_and_at_one_speed(processes: list[Circumstances]) -> None:
    kept = undisturbed(processes)
    times = [seconds for i in kept for seconds in processes[i]["reference_s"]]
    assert not times or max(times) <= min(times) * (1 + TOLERANCE)
    assert all(processes[i]["others"] <= OTHERS for i in kept)
    assert undisturbed([processes[i] for i in kept]) == list(range(len(kept)))
    assert kept or all(not same_speed(one["reference_s"]) or one["others"] > OTHERS for one in processes)


def test_a_pair_is_of_one_speed_whatever_the_others_are() -> None:
    assert undisturbed_pairs([FAST, SLOW, FAST, MIXED, FAST], [FAST, SLOW, SLOW, FAST, BUSY]) == [0, 1]
    other_threads = [process(2.0, 2.0), process(2.6, 2.6), process(2.0, 2.1)]
    assert undisturbed_pairs([FAST, SLOW, SLOW], other_threads) == [0, 1]
    assert undisturbed_pairs([UNKNOWN, FAST], [UNKNOWN, FAST, FAST]) == [0, 1]


def test_the_median_of_what_is_known() -> None:
    assert median_seconds([UNKNOWN, process(1.0, 2.0), process(4.0, 5.0)]) == 3.0
    assert median_seconds([UNKNOWN]) is None
