"""The report's curves over load: requests that arrive at a rate, and callers at a time."""

from __future__ import annotations

from collections.abc import Sequence

from ..io.counts import count
from ..report.charts import Axis, Line, Note, line_chart
from ..report.markup import Markup, table
from ..report.words import duration, rate
from .cards import card
from .results import Concurrency, Server, ServerPoint
from .series import Series, batches, key_of
from .statistics import KNOWN_FROM

_KEPT_UP = 0.95
"""The share of the offered rate from which on it counts as done: the last requests end a little after they came."""


def rate_cards(series: Sequence[Series], operation: str, scenario: str) -> list[Markup]:
    """Draw latency against the rate at which requests arrive, a card for each batch, with the bound if there is one."""
    cards = []
    for batch in batches(series, operation, scenario):
        shown = [
            (one, found["server"])
            for one in series
            for found in one.of(operation, scenario)
            if found["batch"] == batch and found["server"] is not None
        ]
        if shown:
            cards.append(_rate_card(operation, batch, shown))
    return cards


def callers_cards(series: Sequence[Series], operation: str) -> list[Markup]:
    """Draw latency against throughput, a mark for each number of callers at a time, a card for each batch."""
    cards = []
    for batch in batches(series, operation, "concurrent"):
        shown = [
            (one, concurrency)
            for one in series
            for found in one.of(operation, "concurrent")
            if found["batch"] == batch and (concurrency := found.get("concurrency")) is not None
        ]
        if shown:
            cards.append(_callers_card(operation, batch, shown))
    return cards


def _rate_card(operation: str, batch: int, shown: Sequence[tuple[Series, Server]]) -> Markup:
    lines, rows = [], []
    for one, server in shown:
        points = sorted(server["curve"], key=lambda point: point["rate"])
        lines += [
            _curve(f"{one.name}, 99th percentile", [(p["rate"], p["p99"]) for p in points], one.style),
            _curve(f"{one.name}, median", [(p["rate"], p["p50"]) for p in points], f"{one.style} dashed"),
        ]
        rows.append([f"{one.name}: {_best(server)}"])
        rows += [
            [
                rate(p["rate"]),
                _done(p, server),
                duration(p["p50"]),
                _p99(p["p99"], p.get("count")),
                f"{p['count']:,}" if "count" in p else "–",
            ]
            for p in points
        ]
    rates = [point["rate"] for _, server in shown for point in server["curve"]]
    bounds = {server["latency_bound_s"] for _, server in shown} - {None}
    ends = (min(rates) / 1.1, max(rates) * 1.1) if rates else ()  # a single rate has one, too
    lines += [Line("bound", [(end, bound * 1e3) for end in ends], "bound") for bound in bounds if bound is not None]
    chart = line_chart(
        lines,
        Axis("requests offered per second", log=True),
        Axis("ms from arrival to done", log=True),
        "; ".join(f"{row[0]} per second: p99 {row[3]}" if row[1:] else row[0] for row in rows),
        title=f"Latency of {operation} at rising rates, up to {batch} at once",
    )
    key = [("solid: 99th percentile", "plain"), ("median", "dashed"), *[("bound", "bound")] * bool(bounds)]
    return card(
        f"{operation}, up to {batch} at once",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown], *key),
        f"At most {batch} of those that wait are taken at once.{_starred(rows)}",
        table(["offered per second", "done per second", "median", "p99", "requests"], rows),
        wide=True,
    )


def _callers_card(operation: str, batch: int, shown: Sequence[tuple[Series, Concurrency]]) -> Markup:
    lines, notes, rows, words = [], [], [], []
    for one, found in shown:
        points, knee = found["points"], found["knee"]
        labels = [
            f"{count(p['callers'], 'caller')}: {rate(p['throughput'])} images/s at {duration(p['p50'])}"
            + (", the knee" if p["callers"] == knee else "")
            for p in points
        ]
        slow = [f"{count(p['callers'], 'caller')}: p99 {duration(p['p99'])}" for p in points]
        path = [(p["throughput"], p["p50"] * 1e3) for p in points]
        tail = [(p["throughput"], p["p99"] * 1e3) for p in points]
        lines += [
            Line(f"{one.name}, median", path, one.style, marks=True, labels=labels),
            Line(f"{one.name}, 99th percentile", tail, f"{one.style} dashed", marks=True, labels=slow),
        ]
        notes += [
            Note(f"knee: {count(knee, 'caller')}", *at, one.style)
            for at, p in zip(path, points, strict=True)
            if p["callers"] == knee
        ]
        rows.append([one.name])
        rows += [
            [
                f"{p['callers']}" + (" (knee)" if p["callers"] == knee else ""),
                rate(p["throughput"]),
                duration(p["p50"]),
                _p99(p["p99"], p["count"]),
                f"{p['count']:,}",
            ]
            for p in points
        ]
        words.append(f"{one.name}: {'; '.join(labels)}")
    chart = line_chart(
        lines,
        Axis("images per second", log=True),
        Axis("ms a call", log=True),
        ". ".join(words),
        title=f"Latency of {operation} against its throughput, {batch} a call, by callers at a time",
        notes=notes,
    )
    return card(
        f"{operation}, {batch} a call",
        [one for one, _ in shown],
        chart,
        key_of([one for one, _ in shown], ("solid: median", "plain"), ("99th percentile", "dashed")),
        "A mark for each number of callers, each of whom calls again as soon as it has its answer. Past the knee more "
        f"of them wait more than they get.{_starred(rows)}",
        table(["callers", "images/s", "median", "p99", "calls"], rows),
        wide=True,
    )


def _starred(rows: Sequence[Sequence[str]]) -> str:
    """Say what the stars of `_p99` mean, where there is one."""
    few = any(cell.endswith(" *") for row in rows for cell in row)
    return f" * is of fewer than {KNOWN_FROM[99]}, and says no more than how these went." if few else ""


def _p99(seconds: float, of: int | None) -> str:
    return duration(seconds) if of is not None and of >= KNOWN_FROM[99] else f"{duration(seconds)} *"


def _done(point: ServerPoint, server: Server) -> str:
    """Write what was done; where a bound ends a rate early, that says nothing of whether it keeps up."""
    behind = server["latency_bound_s"] is None and point["achieved"] < _KEPT_UP * point["rate"]
    return f"{rate(point['achieved'])}, falls behind" if behind else rate(point["achieved"])


def _best(server: Server) -> str:
    if server["latency_bound_s"] is None:
        return "at rates that were given"
    bound, best = duration(server["latency_bound_s"]), server["max_rate"]
    if best is None:
        return f"no rate that was tried keeps the 99th percentile under {bound}"
    return f"up to {rate(best)} images per second keep the 99th percentile under {bound}"


def _curve(name: str, points: Sequence[tuple[float, float]], style: str) -> Line:
    labels = [f"{duration(seconds)} at {rate(offered)} per second" for offered, seconds in points]
    return Line(name, [(offered, seconds * 1e3) for offered, seconds in points], style, marks=True, labels=labels)
