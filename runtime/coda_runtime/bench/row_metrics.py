"""The numbers of two measurements of the same work that can be compared, each judged."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from .breakdown import steps_of
from .results import Measurement
from .statistics import KNOWN_FROM, MIN_PAIRS, MIN_PROCESSES
from .verdicts import Metric, Rule, judge

LIKE = 1.5
"""By which factor the calls of a process may differ for high percentiles of either to be alike."""

MEMORY_SLACK = 16 << 20
"""Bytes by which a peak may grow without being a regression: allocators and pages, whatever the share."""


def metrics_of(a: Measurement, b: Measurement, rule: Rule) -> Iterator[Metric]:
    """Yield the metrics of time that can be compared, the one that the scenario is about first."""
    if a["scenario"] == "concurrent":
        yield from _by_callers(a, b, rule)
    elif a["server"] is None or b["server"] is None:
        yield from _times(a, b, rule)
    elif a["scenario"] == "offered":
        if a["server"]["offered_rate"] == b["server"]["offered_rate"]:
            yield judge("median", _each(a, b, "p50"), rule)
    elif a["server"]["latency_bound_s"] == b["server"]["latency_bound_s"]:
        rates = [[process["max_rate"] or 0.0 for process in of["processes"]] for of in (a, b)]
        if min(map(min, rates)) > 0:
            yield judge("max_rate", rates, rule, higher_is_slower=False)
        else:
            yield _held(rates, rule)


def _held(rates: Sequence[Sequence[float]], rule: Rule) -> Metric:
    """Judge rates of which some are 0, where no rate stayed under the bound: all of one side tell, and some do not."""
    before, after = (statistics.median(side) for side in rates)
    enough = min(map(len, rates)) >= (MIN_PAIRS if rule.paired else MIN_PROCESSES) and rule.doubt is None
    for lost, (dead, live), verdict in (("B", reversed(rates), "slower"), ("A", rates, "faster")):
        if enough and max(dead) == 0 < min(live):
            reason = f"no rate held in {lost}"
            return Metric(
                "max_rate", before, after, after / before if before else 1, None, verdict, lost == "B", reason
            )
    return Metric("max_rate", before, after, 1, None, "inconclusive", False, rule.doubt or "no rate held")


def memory_of(a: Measurement, b: Measurement, threshold: float, *, other_past: bool) -> Iterator[Metric]:
    """Yield the peaks of memory. `other_past`: other measurements ran before in the processes of one of them."""
    for name, before, after in (
        ("peak_host_bytes", a["peak_host_bytes"], b["peak_host_bytes"]),
        ("peak_device_bytes", a["peak_device_bytes"], b["peak_device_bytes"]),
    ):
        if before and after is not None:
            past = abs(after - before) > max(threshold * before, MEMORY_SLACK)
            verdict = ("more" if after > before else "less") if past else "same"
            if past and other_past:
                reason = "other measurements came before it in the process, whose memory is kept; measure the same"
                yield Metric(name, before, after, after / before, None, "inconclusive", False, reason)
                continue
            yield Metric(name, before, after, after / before, None, verdict, verdict == "more")


def _by_callers(a: Measurement, b: Measurement, rule: Rule) -> Iterator[Metric]:
    """Yield what so many callers at a time get, for each number that all processes have; A's knee first."""
    points = [
        [{of["callers"]: of for of in process.get("callers") or ()} for process in of["processes"]] for of in (a, b)
    ]
    shared = set.intersection(*(set(process) for side in points for process in side))
    concurrency = a.get("concurrency")
    knee = None if concurrency is None else concurrency["knee"]
    for callers in sorted(shared, key=lambda number: (number != knee, number)):
        for name, number in (("median", "p50"), ("throughput", "throughput")):
            numbers = [[float(process[callers][number]) for process in side] for side in points]  # type: ignore[literal-required]
            if min(map(min, numbers)) > 0:
                yield judge(f"{name} at {callers}", numbers, rule, higher_is_slower=number == "p50")


def _times(a: Measurement, b: Measurement, rule: Rule) -> Iterator[Metric]:
    if min(process["p50"] for of in (a, b) for process in of["processes"]) <= 0:
        return
    rates = [[_images(of) / process["p50"] for process in of["processes"]] for of in (a, b)]
    found = [judge("median", _each(a, b, "p50"), rule), judge("throughput", rates, rule, higher_is_slower=False)]
    yield from reversed(found) if a["scenario"] == "offline" else found
    for q in KNOWN_FROM:
        if a["latency_s"][f"p{q}"] is not None and b["latency_s"][f"p{q}"] is not None:  # type: ignore[literal-required]
            yield judge(f"p{q}", _each(a, b, f"p{q}"), replace(rule, doubt=rule.doubt or _unlike(a, b, q)))
    for step in steps_of(a):
        times = [[steps_of(process).get(step) for process in of["processes"]] for of in (a, b)]
        known = [[time for time in side if time] for side in times]
        if all(len(there) == len(side) for there, side in zip(known, times, strict=True)):
            yield judge(step, known, rule)


def _unlike(a: Measurement, b: Measurement, q: int) -> str | None:
    """Return why the percentiles of single processes cannot be compared: few calls reach less far into a long tail."""
    fewer, more = sorted(statistics.median(process["count"] for process in of["processes"]) for of in (a, b))
    if more <= LIKE * fewer or fewer >= KNOWN_FROM[q]:
        return None
    return f"{fewer:g} calls in a process of one and {more:g} in the other: take the same --seconds"


def _each(a: Measurement, b: Measurement, name: str) -> list[list[float]]:
    return [[float(process[name]) for process in of["processes"]] for of in (a, b)]  # type: ignore[literal-required]


def _images(of: Measurement) -> float:
    """Return the images of one sample: a batch, or a pass over all of them."""
    return of["throughput"] * of["latency_s"]["p50"]
