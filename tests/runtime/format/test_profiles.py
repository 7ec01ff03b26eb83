"""Which batches profiles hold, and in which of them one runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.format.profiles import (
    Batch,
    BatchSizes,
    added,
    batch_options,
    choose_profile,
    in_order,
    profiles_text,
    span,
)

TWO: list[Batch] = [(1, 1, 1), (8, 16, 32)]


def profiles(largest: int = 20) -> st.SearchStrategy[Batch]:
    sizes = st.tuples(*[st.integers(1, largest)] * 3)
    return sizes.map(sorted).map(lambda found: (found[0], found[1], found[2]))


some = st.lists(profiles(), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("of", "count", "chosen"),
    [
        (TWO, 1, (1, 1, 1)),
        (TWO, 8, (8, 16, 32)),
        (TWO, 32, (8, 16, 32)),
        (TWO, 7, None),
        (TWO, 33, None),
        ([(1, 4, 8), (1, 16, 32)], 9, (1, 16, 32)),
        ([(1, 4, 8), (1, 16, 32)], 8, (1, 4, 8)),
        ([(1, 8, 32), (1, 4, 32)], 5, (1, 4, 32)),
        ([(1, 8, 32), (1, 4, 32)], 7, (1, 8, 32)),
        # As far from both: the one that takes less memory.
        ([(1, 4, 32), (1, 8, 16)], 6, (1, 8, 16)),
        ([(1, 8, 16), (1, 4, 32)], 6, (1, 8, 16)),
    ],
)
def test_a_batch_runs_in_the_profile_whose_opt_is_nearest(of: list[Batch], count: int, chosen: Batch | None) -> None:
    index = choose_profile(of, count)
    assert (None if index is None else of[index]) == chosen


@given(of=some, count=st.integers(1, 25))
def test_what_is_chosen_holds_the_batch_and_none_is_nearer(of: list[Batch], count: int) -> None:
    index = choose_profile(of, count)
    holding = [profile for profile in of if profile[0] <= count <= profile[2]]
    if index is None:
        assert not holding
        return
    assert of[index] in holding
    assert abs(of[index][1] - count) == min(abs(profile[1] - count) for profile in holding)


@given(of=some)
def test_every_profile_runs_its_own_opt_unless_another_has_the_same(of: list[Batch]) -> None:
    for profile in of:
        index = choose_profile(of, profile[1])
        assert index is not None
        assert of[index][1] == profile[1]


@given(a=some, b=some)
def test_sizes_are_those_that_a_profile_holds(a: list[Batch], b: list[Batch]) -> None:
    def held(of: list[Batch]) -> set[int]:
        return {size for low, _, high in of for size in range(low, high + 1)}

    sizes, both = BatchSizes.of(a), BatchSizes.of(a) & BatchSizes.of(b)
    assert {size for size in range(30) if size in sizes} == held(a)
    assert {size for size in range(30) if size in both} == held(a) & held(b)
    assert (sizes.min, sizes.max) == (min(held(a)), max(held(a)))
    for count in range(30):
        assert sizes.at_most(count) == max((size for size in held(a) if size <= count), default=None)
    gap = sizes.first_gap
    missing = [size for size in range(sizes.min, sizes.max) if size not in sizes]
    assert (gap is None) == (not missing)
    if gap is not None:
        assert gap[0] == missing[0]
        assert all(size in missing for size in range(gap[0], gap[1] + 1))
        assert gap[1] + 1 in sizes


def test_words() -> None:
    assert str(BatchSizes.of(TWO)) == "of 1 or from 8 to 32"
    assert str(BatchSizes.of([(1, 2, 7), (8, 16, 32)])) == "from 1 to 32"
    assert profiles_text(TWO) == "1,1,1 8,16,32"
    assert batch_options(TWO) == "--batch 1,1,1 --batch 8,16,32"


def test_the_order_does_not_depend_on_how_they_were_typed() -> None:
    assert in_order(reversed(TWO)) == in_order(TWO) == tuple(TWO)
    assert in_order([(4, 8, 8), (1, 8, 32), (1, 8, 8)]) == ((1, 8, 8), (4, 8, 8), (1, 8, 32))


def test_one_profile_over_all() -> None:
    assert span(TWO) == (1, 16, 32)
    assert span([(1, 4, 8)]) == (1, 4, 8)


def test_profiles_that_others_hold_are_not_added() -> None:
    assert added(TWO, [(1, 4, 8)]) == ((1, 1, 1), (1, 4, 8), (8, 16, 32))
    assert added(TWO, [(8, 8, 8), (1, 1, 1)]) == tuple(TWO)
