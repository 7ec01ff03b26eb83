from __future__ import annotations

from functools import partial

import pytest

from coda_runtime.bench.timing import interleave, measure, warm_and_measure, warm_up
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


def test_runs_take_turns_forwards_and_backwards_after_an_untimed_round() -> None:
    calls: list[str] = []
    runs = [partial(calls.append, name) for name in "abc"]
    seconds = interleave(runs, 3, before=partial(calls.append, "."))
    assert "".join(calls) == ".a.b.c.c.b.a.a.b.c.c.b.a"
    assert [len(of) for of in seconds] == [3, 3, 3]
    calls.clear()
    interleave(runs, 2, warm=True)
    assert "".join(calls) == "cbaabc"


def test_each_run_has_its_own_seconds() -> None:
    now = 0.0

    def take(seconds: float) -> None:
        nonlocal now
        now += seconds

    found = interleave([lambda: take(1), lambda: take(10)], 4, before=lambda: take(100), clock=lambda: now)
    assert found == [[1.0] * 4, [10.0] * 4]
    spent = interleave([lambda: take(1)], 50, min_rounds=3, budget_s=0, clock=lambda: now)
    assert spent == [[1.0] * 3]
    assert interleave([lambda: take(1)], 50, budget_s=4.5, clock=lambda: now) == [[1.0] * 5]
