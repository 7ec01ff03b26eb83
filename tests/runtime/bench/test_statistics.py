from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_runtime import InputError
from coda_runtime.bench.statistics import MIN_SAMPLES, is_stable, median_ci, outliers, percentile, ratio_ci

SERIES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=80)
LONG = st.lists(st.floats(1e-6, 1e3), min_size=MIN_SAMPLES, max_size=80)


@given(SERIES, st.floats(0, 100))
def test_percentile_is_numpys(samples: list[float], q: float) -> None:
    assert percentile(samples, q) == np.percentile(samples, q)


@pytest.mark.parametrize("samples", [[], [float("nan")], [1.0, float("inf")], [[1.0], [2.0]]])
def test_samples_must_be_finite_numbers(samples: list[float]) -> None:
    for of in (lambda: percentile(samples, 50), lambda: median_ci(samples), lambda: outliers(samples)):
        with pytest.raises(InputError, match="expected finite"):
            of()


@pytest.mark.parametrize("q", [-1, 100.1, float("nan")])
def test_q_is_a_percentage(q: float) -> None:
    with pytest.raises(InputError, match="0 to 100"):
        percentile([1.0], q)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_level_is_a_share(level: float) -> None:
    with pytest.raises(InputError, match=r"such as 0\.95"):
        median_ci([1.0] * 8, level)
    with pytest.raises(InputError, match=r"such as 0\.95"):
        ratio_ci([1.0] * 8, [1.0] * 8, level)


@given(SERIES)
def test_the_interval_holds_the_median_and_lies_among_the_samples(samples: list[float]) -> None:
    low, high = median_ci(samples)
    assert min(samples) <= low <= np.median(samples) <= high <= max(samples)


def test_known_ranks() -> None:
    """From tables of the sign test: 95 % of 20 samples are the 6th and the 15th, 99 % the 4th and the 17th."""
    samples = [float(rank) for rank in range(20, 0, -1)]
    assert median_ci(samples) == (6, 15)
    assert median_ci(samples, 0.99) == (4, 17)
    assert median_ci([3.0, 1.0, 2.0]) == (1, 3)


@pytest.mark.parametrize("n", [6, 15, 40, 200])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_the_median_covers_it_as_often_as_it_says(n: int, level: float) -> None:
    random = np.random.default_rng(n)
    trials = random.lognormal(0, 1, (2000, n))  # a long tail; the true median is 1
    intervals = np.array([median_ci(samples, level) for samples in trials])
    covered = np.mean((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1))
    # At least the level, and with many samples not much more than it.
    assert covered >= level - 0.025
    assert n < 40 or covered <= level + 0.06


def test_outliers_are_past_the_outer_fence() -> None:
    samples = [float(value) for value in range(1, 101)]  # quartiles 25.75 and 75.25: the fences are -122.75 and 223.75
    assert outliers([*samples[:-1], 220.0]) == 0
    assert outliers([*samples[:-1], 230.0]) == 1
    assert outliers([-130.0, *samples[1:-1], 230.0]) == 2
    assert outliers([2.0] * 30) == 0


def test_a_warm_up_is_over_when_two_blocks_agree() -> None:
    falling = [1.0 / (i + 1) for i in range(12)]
    assert not is_stable(falling)
    assert is_stable(falling + [0.08] * 40)
    assert not is_stable([1.0] * 9)
    assert is_stable([1.0] * 10)
    assert is_stable([1.0, 1.0, 1.019, 1.019], block=2)
    assert not is_stable([1.0, 1.0, 1.021, 1.021], block=2)
    assert not is_stable([1.021, 1.021, 1.0, 1.0], block=2)
    assert not is_stable([])
    with pytest.raises(InputError, match="block is 0"):
        is_stable([1.0], block=0)


def correlated(random: np.random.Generator, n: int) -> np.ndarray:
    noise = random.normal(0, 0.1, n)
    for index in range(1, n):
        noise[index] += 0.5 * noise[index - 1]
    return np.exp(noise)


@pytest.mark.parametrize(("n", "least"), [(6, 0.94), (12, 0.94), (40, 0.91), (150, 0.91)])
def test_the_interval_of_the_ratio_covers_it(n: int, least: float) -> None:
    random = np.random.default_rng(n)
    hits = []
    for _ in range(200):
        low, high = ratio_ci(random.lognormal(0, 0.1, n), 1.07 * random.lognormal(0, 0.1, n))
        hits.append(low <= 1.07 <= high)
    assert np.mean(hits) >= least


def test_samples_that_follow_each_other_widen_the_interval() -> None:
    """Single draws would take them for independent, and cover the ratio about four times in five."""
    random = np.random.default_rng(1)
    hits = []
    for _ in range(200):
        low, high = ratio_ci(correlated(random, 150), 1.07 * correlated(random, 150))
        hits.append(low <= 1.07 <= high)
    assert np.mean(hits) >= 0.86


@settings(deadline=None, max_examples=50)
@given(LONG)
def test_a_series_does_not_differ_from_itself(samples: list[float]) -> None:
    low, high = ratio_ci(samples, samples)
    assert low <= 1 <= high


@settings(deadline=None, max_examples=50)
@given(LONG, LONG)
def test_the_ratio_holds_what_was_measured_and_repeats(a: list[float], b: list[float]) -> None:
    low, high = ratio_ci(a, b)
    assert low <= np.median(b) / np.median(a) <= high
    assert ratio_ci(a, b) == (low, high)


def test_a_large_difference_is_found() -> None:
    random = np.random.default_rng(0)
    low, high = ratio_ci(random.lognormal(0, 0.05, 100), 1.2 * random.lognormal(0, 0.05, 100))
    assert 1.12 < low < 1.2 < high < 1.28


@pytest.mark.parametrize("bad", [[1.0] * (MIN_SAMPLES - 1), [0.0, *[1.0] * 9], [-1.0, *[1.0] * 9]])
def test_a_ratio_needs_enough_positive_samples(bad: list[float]) -> None:
    good = [1.0] * 10
    for a, b in ((bad, good), (good, bad)):
        with pytest.raises(InputError, match=f"at least {MIN_SAMPLES} positive samples"):
            ratio_ci(a, b)
