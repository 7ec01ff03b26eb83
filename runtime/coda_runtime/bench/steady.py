"""Whether the machine ran at one speed: by what a product of matrices took before and after each measurement.

A virtual machine whose two processors share one core for a while, or a clock that sinks, makes all work slower by a
third without a trace in the system's load. What is compared has to be of one speed, and which processes those are is
decided by the product alone, not by what was measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from .statistics import MIN_PROCESSES

TOLERANCE = 0.08
"""By how much the product differs on a quiet machine, and less than by which the speeds of one do."""

Reference = Sequence[float] | None
"""Seconds of the product before and after; None where it says nothing, as for work on a GPU."""

_SIDE, _RUNS = 768, 9


def reference_seconds() -> float:
    """Return the median seconds of a float32 product of 768 x 768 matrices by NumPy, on its BLAS's threads."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    out, samples = np.empty_like(a), []
    for _ in range(_RUNS + 1):
        start = time.perf_counter()
        np.matmul(a, b, out=out)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples[1:])  # the first one is slower


def same_speed(*references: Reference) -> bool:
    """Return whether all products took the same time; those that are not known do not count."""
    times = [seconds for reference in references if reference is not None for seconds in reference]
    return not times or max(times) <= min(times) * (1 + TOLERANCE)


def at_one_speed(references: Sequence[Reference]) -> list[int]:
    """Return which processes ran at one speed: the highest at which enough did, or else that of most.

    All, where one of them does not know; none, where none ran at one speed from its beginning to its end.
    """
    if any(reference is None for reference in references):
        return list(range(len(references)))
    spans = {i: (min(reference), max(reference)) for i, reference in enumerate(references) if reference is not None}
    groups = [
        [i for i, (fastest, slowest) in spans.items() if low <= fastest and slowest <= low * (1 + TOLERANCE)]
        for low in sorted(fastest for fastest, _ in spans.values())
    ]
    return next((group for group in groups if len(group) >= MIN_PROCESSES), max(groups, key=len, default=[]))


def pairs_at_one_speed(a: Sequence[Reference], b: Sequence[Reference]) -> list[int]:
    """Return which processes of A and of B, side by side, ran at one speed of the machine."""
    return [i for i, pair in enumerate(zip(a, b, strict=False)) if same_speed(*pair)]


def median_seconds(references: Sequence[Reference]) -> float | None:
    """Return what the product took in the median, None where nobody knows."""
    times = [seconds for reference in references if reference is not None for seconds in reference]
    return statistics.median(times) if times else None
