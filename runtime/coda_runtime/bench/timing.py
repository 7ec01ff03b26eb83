"""Timing: one call, warmed up until it is stable, then often enough and long enough; or several calls in turn."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .statistics import is_stable

MIN_REPEATS = 10
"""What a median and its confidence interval need."""
_FEWEST = 6  # runs of a warm-up, however slow
_FIRST_LOOK = 10

Clock = Callable[[], float]
Run = Callable[[int], object]
"""One call, given its number from 0, so that calls in a row may take different inputs."""


@dataclass(frozen=True)
class WarmUp:
    """How a warm-up went; not `warm` when its limit came before two blocks of calls took the same time."""

    runs: int
    warm: bool


@dataclass(frozen=True)
class Timing:
    """Seconds of each call in the order of time, after a warm-up."""

    warm_up: WarmUp
    samples: list[float] = field(repr=False)


def warm_up(run: Run, limit_s: float, *, clock: Clock = time.perf_counter) -> WarmUp:
    """Call `run` until its times are stable, or for about `limit_s`, but at least a few times."""
    samples: list[float] = []
    start = clock()
    # Looks come ever more rarely, so that they cost less than the calls they are about.
    look_at = _FIRST_LOOK
    while True:
        before = clock()
        run(len(samples))
        now = clock()
        samples.append(now - before)
        over = now - start >= limit_s and len(samples) >= _FEWEST
        if over or len(samples) >= look_at:
            stable = is_stable(samples, block=len(samples) // 2 if len(samples) < _FIRST_LOOK else None)
            if over or stable:
                return WarmUp(len(samples), stable)
            look_at = len(samples) + max(4, len(samples) // 4)


def measure(
    run: Run, seconds: float, *, repeats: int = MIN_REPEATS, clock: Clock = time.perf_counter, first: int = 0
) -> list[float]:
    """Time calls in a row, in seconds: at least `repeats` of them, and at least `seconds` in all.

    They count from `first`.
    """
    samples: list[float] = []
    gc.collect()
    start = clock()
    while True:
        before = clock()
        run(first + len(samples))
        now = clock()
        samples.append(now - before)
        if len(samples) >= repeats and now - start >= seconds:
            return samples


def interleave(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    *,
    min_rounds: int = 0,
    budget_s: float = math.inf,
    before: Callable[[], object] | None = None,
    warm: bool = False,
    clock: Clock = time.perf_counter,
) -> list[list[float]]:
    """Return the seconds of each run in each round of all of them: a machine that slows down slows all of them.

    Every other round goes backwards, so that what runs before one is not always the same.

    Args:
        runs: what is compared.
        rounds: how many rounds are timed.
        min_rounds: so many are run even where `budget_s` seconds are spent before.
        budget_s: once it is spent, no other round begins.
        before: called before each run, untimed: threads of what ran last may still be spinning.
        warm: leave out the round that goes before all, untimed.
        clock: tells the seconds.
    """
    samples: list[list[float]] = [[] for _ in runs]
    order = list(zip(runs, samples, strict=True))
    start = clock()
    for number in range(1 if warm else 0, rounds + 1):
        if number > min_rounds and clock() - start > budget_s:
            break
        for run, into in order if number % 2 == 0 else reversed(order):
            if before is not None:
                before()
            began = clock()
            run()
            if number:
                into.append(clock() - began)
        if number == 0:
            start = clock()
    return samples


def warm_and_measure(
    run: Run, seconds: float, *, repeats: int = MIN_REPEATS, clock: Clock = time.perf_counter
) -> Timing:
    """Run `warm_up` for `seconds` at most, then `measure`."""
    warmed = warm_up(run, seconds, clock=clock)
    return Timing(warmed, measure(run, seconds, repeats=repeats, clock=clock, first=warmed.runs))
