from __future__ import annotations

import pytest

from coda_runtime.bench.timing import measure, warm_and_measure, warm_up
from tests.runtime.bench.fakes import FakeTime


def test_a_warm_up_ends_when_the_calls_have_become_stable() -> None:
    time = FakeTime()
    warmed = warm_up(time.run(lambda n: 1.0 / (1 + n) if n < 30 else 0.01), limit_s=1e6, clock=time.clock)
    assert warmed.warm
    assert warmed.runs > 30


def test_a_warm_up_that_never_gets_stable_ends_at_its_limit_and_says_so() -> None:
    time = FakeTime()
    warmed = warm_up(time.run(lambda n: 1.1**n), limit_s=1000, clock=time.clock)
    assert not warmed.warm
    assert time.now - 100 < 1300


@pytest.mark.parametrize(("times", "warm"), [(lambda n: 5.0, True), (lambda n: 5.0 - n / 2, False)])
def test_slow_calls_are_warmed_up_by_a_few(times: object, warm: bool) -> None:
    time = FakeTime()
    warmed = warm_up(time.run(times), limit_s=1.0, clock=time.clock)  # type: ignore[arg-type]
    assert (warmed.runs, warmed.warm) == (6, warm)


def test_calls_are_made_often_enough_and_for_long_enough() -> None:
    time = FakeTime()
    assert measure(time.run(lambda n: 2.0), 1.0, repeats=7, clock=time.clock) == [2.0] * 7
    assert len(measure(time.run(lambda n: 0.25), 10.0, repeats=7, clock=time.clock)) == 40


def test_the_samples_are_the_calls_after_the_warm_up_in_order() -> None:
    time = FakeTime()
    timing = warm_and_measure(time.run(lambda n: 1 + n / 1024), 1.0, repeats=4, clock=time.clock)
    first = timing.warm_up.runs
    assert timing.samples == [1 + n / 1024 for n in range(first, first + 4)]
