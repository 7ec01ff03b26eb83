"""The report's curves over the batch, and the distribution of the calls, each with the table of what it draws."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ..io.counts import count
from ..report.charts import Axis, Band, Line, line_chart
from ..report.markup import Markup, table
from ..report.words import duration, rate
from .cards import Words, by_batch, card, description, named
from .percentiles import percentile_words, slow_end
from .results import Measurement
from .series import Series, batches, key_of
from .statistics import KNOWN_FROM


def latency_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw the median against the batch, with a band up to the slow calls."""
    shown = [(one, one.of(operation, "single-stream")) for one in series]
    shown = [(one, found) for one, found in shown if found]
    if not shown:
        return Markup("")
    lines = [_line(one, found, lambda of: of["latency_s"]["p50"] * 1e3, _median) for one, found in shown]
    bands = [
        Band(
            f"{one.name}: median to 99th percentile or slowest call",
            [(of["batch"], of["latency_s"]["p50"] * 1e3, slow_end(of["latency_s"]) * 1e3) for of in found],
            one.style,
        )
        for one, found in shown
    ]
    chart = line_chart(
        lines,
        _batch_axis(series, operation, ("single-stream",)),
        Axis("ms a call", log=True),
        description(named(shown), _median),
        title=f"Latency of {operation} against the batch",
        bands=bands,
    )
    return card(
        "Latency, one call after another",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown]),
        "Line: median. Band: up to the 99th percentile where the calls are enough for one, else to its upper bound, or "
        "to the slowest call where they are too few for that. In brackets the calls. Both axes are logarithmic.",
        by_batch(
            [(one.name, [("median", found, _median), ("p99", found, _p99)]) for one, found in shown],
            batches(series, operation, "single-stream"),
            "at batch",
        ),
    )


def distribution_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw how many of the calls took at most so long, for the smallest batch of each cell."""
    shown = [(one, found[0]) for one in series if (found := one.of(operation, "single-stream"))]
    if not shown:
        return Markup("")
    lines, rows, words = [], list[list[str]](), []
    for one, of in shown:
        samples = sorted(of["latency_s"]["samples"])
        steps = [(1e3 * value, 100 * (index + 1) / len(samples)) for index, value in enumerate(samples)]
        thinned = steps[:: max(1, len(steps) // 200)]
        lines.append(Line(one.name, [*thinned, steps[-1]], one.style))
        latency = of["latency_s"]
        high = [percentile_words(latency, q) for q in KNOWN_FROM]
        ends = [duration(latency[end]) for end in ("min", "p50", "max")]
        rows += [[one.name], [f"batch {of['batch']}", *ends[:2], *high, ends[2]]]
        words.append(f"{one.name}, batch {of['batch']}: half within {ends[1]}, the slowest {ends[2]}")
    chart = line_chart(
        lines,
        Axis("ms a call", log=True),
        Axis("% of the calls", ticks=[0, 20, 40, 60, 80, 100], zero=True),
        "; ".join(words),
        title=f"How long calls of {operation} take",
    )
    return card(
        "Distribution of the latency",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown]),
        "Of the smallest batch: the share of the calls that took at most so long. A step is a second kind of call. In "
        "brackets the calls that a percentile rests on.",
        table(["smallest batch", "fastest", "median", *(f"p{q}" for q in KNOWN_FROM), "slowest"], rows),
    )


def processes_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw the median of each process, for the smallest batch of each cell: what drifts, and between which of them."""
    shown = [(one, found[0]) for one in series if (found := one.of(operation, "single-stream"))]
    shown = [(one, of) for one, of in shown if len(of["processes"]) > 1]
    if not shown:
        return Markup("")
    lines, rows, words = [], list[list[str]](), []
    for one, of in shown:
        medians = [process["p50"] for process in of["processes"]]
        middle = max(statistics.median(medians), 1e-12)
        points = [(index, 100 * (value / middle - 1)) for index, value in enumerate(medians, 1)]
        labels = [f"process {index}, {duration(value)}" for index, value in enumerate(medians, 1)]
        lines.append(Line(one.name, points, one.style, marks=True, labels=labels))
        low, high = min(medians), max(medians)
        spread = "–" if low == 0 else f"{100 * (high / low - 1):.1f} %"
        rows += [[one.name], [f"batch {of['batch']}", str(len(medians)), duration(low), duration(high), spread]]
        words.append(
            f"{one.name}: medians of {count(len(medians), 'process', 'processes')} from {duration(low)} to "
            f"{duration(high)}"
        )
    most = max(len(of["processes"]) for _, of in shown)
    chart = line_chart(
        lines,
        Axis("process, in the order of time", ticks=range(1, most + 1, -(-most // 10))),
        Axis("% from the middle one"),
        "; ".join(words),
        title=f"Median of {operation} in each process",
    )
    return card(
        "Process by process",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown]),
        "The median of each process, smallest batch, against the middle one of its cell. What differs between them is "
        "no property of the bundle: compare counts it as noise.",
        table(["smallest batch", "processes", "lowest median", "highest", "spread"], rows),
    )


def throughput_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw images per second against the batch: calls one after another, and all images at once."""
    kinds = [
        (one, scenario, one.of(operation, scenario)) for one in series for scenario in ("single-stream", "offline")
    ]
    kinds = [kind for kind in kinds if kind[2]]
    if not kinds:
        return Markup("")
    lines = [
        _line(
            one,
            found,
            lambda of: of["throughput"],
            lambda of: f"{_rate(of)} images/s",
            dashed=scenario == "offline",
        )
        for one, scenario, found in kinds
    ]
    scenarios = tuple(dict.fromkeys(scenario for _, scenario, _ in kinds))
    rows = [(f"{one.name}, {scenario}", found) for one, scenario, found in kinds]
    chart = line_chart(
        lines,
        _batch_axis(series, operation, scenarios),
        Axis("images per second", log=True),
        description(rows, lambda of: f"{rate(of['throughput'])} images per second"),
        title=f"Throughput of {operation} against the batch",
    )
    sizes = sorted({batch for scenario in scenarios for batch in batches(series, operation, scenario)})
    offline = [("offline", "dashed")] if "offline" in scenarios else []
    shown = list({one.name: one for one, _, _ in kinds}.values())
    return card(
        "Throughput",
        shown,
        chart,
        key_of(shown, *offline),
        "Offline: all images at once, in batches. Both axes are logarithmic.",
        by_batch(
            [(one.name, [(kind, found, _rate) for whose, kind, found in kinds if whose is one]) for one in shown],
            sizes,
            "images/s, at batch",
        ),
    )


def _line(
    one: Series,
    found: Sequence[Measurement],
    value: Callable[[Measurement], float],
    words: Words,
    *,
    dashed: bool = False,
) -> Line:
    style = f"{one.style} dashed" if dashed else one.style
    labels = [f"batch {of['batch']}, {words(of)}" for of in found]
    return Line(one.name, [(of["batch"], value(of)) for of in found], style, marks=True, labels=labels)


def _median(of: Measurement) -> str:
    return duration(of["latency_s"]["p50"])


def _p99(of: Measurement) -> str:
    return percentile_words(of["latency_s"], 99)


def _rate(of: Measurement) -> str:
    return rate(of["throughput"])


def _batch_axis(series: Sequence[Series], operation: str, scenarios: Sequence[str]) -> Axis:
    sizes = sorted({batch for scenario in scenarios for batch in batches(series, operation, scenario)})
    return Axis("batch", ticks=sizes, log=True)
