from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_runtime import InputError
from coda_runtime.bench.statistics import (
    is_stable,
    median_ci,
    outliers,
    pairs_interval,
    percentile,
    ratio_interval,
    upper_bound,
)

SERIES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=80)
FIVE = st.lists(st.floats(1e-6, 1e3), min_size=5, max_size=9)


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
        ratio_interval([1.0] * 8, [1.0] * 8, level)


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


@pytest.mark.parametrize("q", [90, 99])
def test_the_upper_bound_holds_the_percentile_as_often_as_it_says(q: int) -> None:
    random = np.random.default_rng(q)
    true = float(np.exp(0.5 * {90: 1.2815515655, 99: 2.3263478740}[q]))
    bounds = [upper_bound(random.lognormal(0, 0.5, 400), q) for _ in range(1000)]
    held = np.mean([bound is not None and bound >= true for bound in bounds])
    assert 0.935 <= held <= 0.99


def test_a_bound_needs_samples_beyond_the_percentile() -> None:
    """1 - 0.99**n reaches 95 % with 299 samples, 1 - 0.9**n with 29."""
    samples = [float(value) for value in range(1, 300)]
    assert upper_bound(samples[:-1], 99) is None
    assert upper_bound(samples, 99) == 299
    assert upper_bound(samples[:28], 90) is None
    assert upper_bound(samples[:29], 90) == 29
    # From a table of tolerance limits: of 1000 samples the 95 % bound of the 90th percentile is the 916th.
    assert upper_bound([float(value) for value in range(1, 1001)], 90) == 916


@pytest.mark.parametrize(("m", "n"), [(5, 5), (5, 9), (12, 12)])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_the_interval_of_the_ratio_covers_it(m: int, n: int, factor: float) -> None:
    """Whatever the distribution, as long as both have the same."""
    random = np.random.default_rng(m * n)
    hits = []
    for _ in range(1500):
        found = ratio_interval(random.lognormal(0, 0.1, m) ** 3, factor * random.lognormal(0, 0.1, n) ** 3)
        assert found is not None
        hits.append(found[0] <= factor <= found[1])
    assert np.mean(hits) >= 0.98


def test_ranks_of_mann_and_whitney() -> None:
    """Of 252 orders of five and five, one has no inversion and one has one: 2 / 252 is under 1 %, 4 / 252 is not."""
    a, b = [1.0, 1.01, 1.02, 1.03, 1.04], [2.0, 2.02, 2.04, 2.06, 2.08]
    assert ratio_interval(a, b) == pytest.approx((2.0 / 1.04, 2.08 / 1.0))
    assert ratio_interval(a[:4], b) is None
    assert ratio_interval(a[:4], b[:4], 0.95) is not None


@settings(deadline=None, max_examples=50)
@given(FIVE, FIVE)
def test_an_interval_is_turned_round_with_its_sides(a: list[float], b: list[float]) -> None:
    there, back = ratio_interval(a, b), ratio_interval(b, a)
    assert there is not None
    assert back is not None
    assert there[0] <= there[1]
    assert back == pytest.approx((1 / there[1], 1 / there[0]))
    same = ratio_interval(a, a)
    assert same is not None
    assert same[0] <= 1 <= same[1]


def test_what_slows_both_of_a_pair_down_is_not_in_the_interval() -> None:
    random = np.random.default_rng(1)
    drift = np.array([1.0, 1.4, 0.8, 2.0, 1.1, 3.0, 1.0, 0.7])
    found = pairs_interval(drift * random.lognormal(0, 0.005, 8), 1.05 * drift * random.lognormal(0, 0.005, 8))
    assert found is not None
    assert 1.02 < found[0] < 1.05 < found[1] < 1.08
    assert pairs_interval(drift[:7], drift[:7]) is None
    with pytest.raises(InputError, match="pairs of 8 and 7"):
        pairs_interval(drift, drift[:7])


@pytest.mark.parametrize("bad", [[0.0, *[1.0] * 9], [-1.0, *[1.0] * 9]])
def test_a_ratio_needs_positive_values(bad: list[float]) -> None:
    good = [1.0] * 10
    for interval in (ratio_interval, pairs_interval):
        for a, b in ((bad, good), (good, bad)):
            with pytest.raises(InputError, match="needs positive values"):
                interval(a, b)
