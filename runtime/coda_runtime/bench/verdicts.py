"""What two lists of numbers, one number a process, say about each other: slower, faster, the same, or not enough."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..io.counts import count
from .statistics import MIN_PAIRS, MIN_PROCESSES, pairs_interval, ratio_interval

Verdict = Literal["faster", "slower", "same within noise", "inconclusive"]

DRIFT = 0.02
"""What two runs may differ by for reasons that no process inside one of them sees: the machine of an hour later."""
DRIFT_IN_TURN = 0.005
"""The same of processes that took turns."""


@dataclass(frozen=True)
class Metric:
    """One number of a measurement in both files, medians over the processes. `ratio` is B / A, `ci99` its interval.

    `name` is "median", "p90" and "p99" (seconds), "encoder" and other parts (seconds), "throughput" or "max_rate"
    (images per second), "median at 4" and "throughput at 4" (of so many callers), "peak_host_bytes" or
    "peak_device_bytes". `verdict` is one of `Verdict`, of memory "more", "less", "same" or "inconclusive"; memory is
    one number without an interval, and a change is one past the threshold. `reason` says why it is inconclusive.
    """

    name: str
    a: float
    b: float
    ratio: float
    ci99: tuple[float, float] | None
    verdict: str
    regression: bool
    reason: str | None = None


@dataclass(frozen=True)
class Rule:
    """How to judge. `paired`: the processes took turns, each of A beside one of B. `doubt` says why nothing may be.

    `one_machine`: both sides were measured on the same one, which then has to have run at one speed. `pace` is the
    interval of the factor by which a product of matrices took longer in B: what it explains is no difference.
    """

    threshold: float
    paired: bool = False
    doubt: str | None = None
    one_machine: bool = True
    pace: tuple[float, float] | None = None


def judge(name: str, numbers: Sequence[Sequence[float]], rule: Rule, *, higher_is_slower: bool = True) -> Metric:
    """Judge one number of each process, positive ones: those of A and those of B, each in the order of time.

    "slower" or "faster" where the 99 % interval of the ratio leaves no room for less than drift; "same within noise"
    where it leaves none for more than the threshold; else "inconclusive". A regression is slower by more than the
    threshold at the interval's near end.
    """
    a, b = numbers
    if rule.paired:
        few, interval = min(len(a), len(b)) < MIN_PAIRS, pairs_interval(a, b)
        ratio = statistics.median(after / before for before, after in zip(a, b, strict=True))
        needed = f"{count(len(a), 'pair')} of processes; a verdict needs {MIN_PAIRS}"
        drift = DRIFT_IN_TURN
    else:
        few, interval = min(len(a), len(b)) < MIN_PROCESSES, ratio_interval(a, b)
        ratio = statistics.median(b) / statistics.median(a)
        needed = f"processes: {len(a)} and {len(b)}; a verdict needs {MIN_PROCESSES} on each side (--repeat-process)"
        drift = DRIFT
    before, after = statistics.median(a), statistics.median(b)
    if few or interval is None:
        return Metric(name, before, after, ratio, interval, "inconclusive", False, needed)
    if rule.doubt is not None:
        return Metric(name, before, after, ratio, interval, "inconclusive", False, rule.doubt)
    # In terms of time, whatever the number: the slower the larger.
    low, high = interval if higher_is_slower else (1 / interval[1], 1 / interval[0])
    if _is_pace(low, high, rule.pace):
        reason = "the machine ran at another speed: a product of matrices differs by as much"
        return Metric(name, before, after, ratio, interval, "inconclusive", False, reason)
    if low > 1 + drift:
        return Metric(name, before, after, ratio, interval, "slower", low > 1 + rule.threshold)
    if high < 1 / (1 + drift):
        return Metric(name, before, after, ratio, interval, "faster", False)
    if 1 / (1 + rule.threshold) <= low and high <= 1 + rule.threshold:
        return Metric(name, before, after, ratio, interval, "same within noise", False)
    reason = "the processes differ by more than the threshold: repeat more of them, or on a quieter machine"
    return Metric(name, before, after, ratio, interval, "inconclusive", False, reason)


def _is_pace(low: float, high: float, pace: tuple[float, float] | None) -> bool:
    """Return whether work became slower or faster by no more than the machine did, where that is beyond drift too."""
    if pace is None:
        return False
    if pace[0] > 1 + DRIFT:
        return 1 + DRIFT < low <= pace[1] * (1 + DRIFT)
    return pace[1] < 1 / (1 + DRIFT) and pace[0] / (1 + DRIFT) <= high < 1 / (1 + DRIFT)
