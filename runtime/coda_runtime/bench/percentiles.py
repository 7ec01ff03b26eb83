"""High percentiles as tables and charts write them: known, bounded, or neither, with the count they rest on."""

from __future__ import annotations

from ..report.words import duration
from .results import Latency
from .statistics import KNOWN_FROM


def percentile_words(latency: Latency, q: int) -> str:
    """Return the q-th percentile, 90 or 99, with the number of samples that it rests on.

    As in "12.1 ms (700)"; "at most 14 ms (320 of 662)" where it has no more than an upper bound; "– (40 of 662)".
    """
    known, upper = latency[f"p{q}"], latency[f"p{q}_upper"]  # type: ignore[literal-required]
    if known is not None:
        return f"{duration(known)} ({latency['count']})"
    rests = f"({latency['count']} of {KNOWN_FROM[q]})"
    return f"– {rests}" if upper is None else f"at most {duration(upper)} {rests}"


def slow_end(latency: Latency) -> float:
    """Return in seconds what a slow call takes: the 99th percentile, or its upper bound, or else the slowest call."""
    found = (latency["p99"], latency["p99_upper"], latency["max"])
    return next(value for value in found if value is not None)
