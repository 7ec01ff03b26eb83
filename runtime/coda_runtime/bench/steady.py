"""Which processes nothing disturbed: neither other work nor another speed of the machine.

A virtual machine whose two processors share one core for a while, or a clock that sinks, makes all work slower by a
third without a trace in the system's load: a product of matrices, before and after each measurement, shows it. What is
compared has to be of one speed, and which processes count is decided by that and by the time that others had of the
processors while it was measured, never by what was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .statistics import MIN_PROCESSES
from .timing import measure

TOLERANCE = 0.08
"""By how much the product differs on a quiet machine, and less than by which the speeds of one do."""
OTHERS = 0.05
"""The share of the processors' time that other work may have during a measurement."""

Circumstances = Mapping[str, Any]
"""`reference_s`, seconds of the product before and after, and `others`, a share; None or absent where nobody knows."""

_SIDE, _RUNS = 768, 9


def reference_seconds() -> float:
    """Return the median seconds of a float32 product of 768 x 768 matrices by NumPy, on its BLAS's threads."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    samples = measure(lambda _: np.matmul(a, b, out=out), 0, repeats=_RUNS + 1)
    return statistics.median(samples[1:])  # the first one is slower


def same_speed(seconds: Iterable[float]) -> bool:
    """Return whether products took the same time."""
    times = list(seconds)
    return not times or max(times) <= min(times) * (1 + TOLERANCE)


def undisturbed(processes: Sequence[Circumstances]) -> list[int]:
    """Return which processes had the machine to themselves, at one speed of it: the highest at which enough ran.

    Or else that of most. Where one does not know a speed, as for work on a GPU, none is left out for it.
    """
    quiet = [i for i, process in enumerate(processes) if _is_quiet(process)]
    known = [(i, _times(processes[i])) for i in quiet]
    if not all(times for _, times in known):
        return quiet
    groups = [
        [i for i, times in known if low <= min(times) and max(times) <= low * (1 + TOLERANCE)]
        for low in sorted(min(times) for _, times in known)
    ]
    return next((group for group in groups if len(group) >= MIN_PROCESSES), max(groups, key=len, default=[]))


def undisturbed_pairs(a: Sequence[Circumstances], b: Sequence[Circumstances]) -> list[int]:
    """Return which processes of A and of B, side by side, had the machine to themselves, at one speed of it.

    Each side's products are taken relative to its fastest: with other threads or another NumPy they take another time.
    """
    fastest = [min((seconds for one in side for seconds in _times(one)), default=1.0) for side in (a, b)]
    return [
        i
        for i, pair in enumerate(zip(a, b, strict=False))
        if all(map(_is_quiet, pair))
        and same_speed(seconds / best for one, best in zip(pair, fastest, strict=True) for seconds in _times(one))
    ]


def median_seconds(processes: Iterable[Circumstances]) -> float | None:
    """Return what the product took in the median, None where nobody knows."""
    times = [seconds for process in processes for seconds in _times(process)]
    return statistics.median(times) if times else None


def _is_quiet(process: Circumstances) -> bool:
    return (process.get("others") or 0.0) <= OTHERS


def _times(process: Circumstances) -> Sequence[float]:
    return process.get("reference_s") or ()
