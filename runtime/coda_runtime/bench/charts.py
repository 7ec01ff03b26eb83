"""The report's curves, each with the table of what it draws below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..report.charts import Axis, Band, Line, line_chart
from ..report.document import keys
from ..report.markup import Markup, el, join, table
from ..report.words import duration, rate
from .percentiles import percentile_words, slow_end
from .results import Measurement, Server
from .series import Series, batches, key_of

_QUANTILES = (10, 50, 90, 100)


def latency_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw the median against the batch, with a band up to the slow calls."""
    shown = [(one, one.of(operation, "single-stream")) for one in series]
    shown = [(one, found) for one, found in shown if found]
    if not shown:
        return Markup("")
    lines = [
        _line(one, found, lambda of: of["latency_s"]["p50"] * 1e3, lambda of: duration(of["latency_s"]["p50"]))
        for one, found in shown
    ]
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
        _description(_named(shown), lambda of: duration(of["latency_s"]["p50"])),
        title=f"Latency of {operation} against the batch",
        bands=bands,
    )
    return card(
        "Latency, one call after another",
        chart,
        key_of([one for one, _ in shown]),
        "Line: median. Band: up to the 99th percentile where the calls are enough for one, else to its upper bound, or "
        "to the slowest call where they are too few for that. In brackets the calls. Both axes are logarithmic.",
        _by_batch(
            [row for one, found in shown for row in ((f"{one.name}, median", found), (f"{one.name}, p99", found))],
            batches(series, operation, "single-stream"),
            [lambda of: duration(of["latency_s"]["p50"]), lambda of: percentile_words(of["latency_s"], 99)],
            "at batch",
        ),
    )


def distribution_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw how many of the calls took at most so long, for the smallest batch of each cell."""
    shown = [(one, found[0]) for one in series if (found := one.of(operation, "single-stream"))]
    if not shown:
        return Markup("")
    lines, rows = [], []
    for one, of in shown:
        samples = sorted(of["latency_s"]["samples"])
        steps = [(1e3 * value, 100 * (index + 1) / len(samples)) for index, value in enumerate(samples)]
        thinned = steps[:: max(1, len(steps) // 200)]
        lines.append(Line(one.name, [*thinned, steps[-1]], one.style))
        quantiles = [samples[min(len(samples) - 1, len(samples) * q // 100)] for q in _QUANTILES]
        rows.append([f"{one.name}, batch {of['batch']}", *map(duration, quantiles), str(of["repeats"])])
    chart = line_chart(
        lines,
        Axis("ms a call", log=True),
        Axis("% of the calls", ticks=[0, 20, 40, 60, 80, 100], zero=True),
        "; ".join(f"{row[0]}: half within {row[2]}, the slowest {row[-2]}" for row in rows),
        title=f"How long calls of {operation} take",
    )
    return card(
        "Distribution of the latency",
        chart,
        key_of([one for one, _ in shown]),
        "Of the smallest batch: the share of the calls that took at most so long. A step is a second kind of call.",
        table(["smallest batch", *(f"{q} %" for q in _QUANTILES[:-1]), "slowest", "calls"], rows),
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
            lambda of: f"{rate(of['throughput'])} images/s",
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
        _description(rows, lambda of: f"{rate(of['throughput'])} images per second"),
        title=f"Throughput of {operation} against the batch",
    )
    sizes = sorted({batch for scenario in scenarios for batch in batches(series, operation, scenario)})
    offline = [("offline", "dashed")] if "offline" in scenarios else []
    shown = list({one.name: one for one, _, _ in kinds}.values())
    return card(
        "Throughput",
        chart,
        key_of(shown, *offline),
        "Images per second. Offline: all images at once, in batches. Both axes are logarithmic.",
        _by_batch(rows, sizes, [lambda of: rate(of["throughput"])], "images/s, at batch"),
    )


def server_card(one: Series, of: Measurement) -> Markup:
    """Draw latency against the rate at which requests arrive, with the bound where there is one."""
    server = of["server"]
    if server is None:
        return Markup("")
    points = sorted(server["curve"], key=lambda point: point["rate"])
    bound = server["latency_bound_s"]
    lines = [
        _curve("99th percentile", [(p["rate"], p["p99"]) for p in points], one.style),
        _curve("median", [(p["rate"], p["p50"]) for p in points], f"{one.style} dashed"),
    ]
    if points and bound is not None:
        ends = (points[0]["rate"], points[-1]["rate"])
        lines.append(Line("bound", [(end, bound * 1e3) for end in ends], "bound"))
    chart = line_chart(
        lines,
        Axis("requests offered per second"),
        Axis("ms from arrival to done", log=True),
        f"{_best(server)}. " + "; ".join(f"at {rate(p['rate'])} per second p99 {duration(p['p99'])}" for p in points),
        title=f"{of['operation']} as a server, {one.name}",
    )
    rows = [
        [rate(p["rate"]), rate(p["achieved"]), duration(p["p50"]), duration(p["p99"]), str(p.get("count", "–"))]
        for p in points
    ]
    key = [
        ("99th percentile", one.style),
        ("median", f"{one.style} dashed"),
        *[("bound", "bound")] * (bound is not None),
    ]
    return card(
        f"{of['operation']}, up to {of['batch']} at once: {one.name}",
        chart,
        keys(*key),
        f"{_best(server)}.",
        table(["offered per second", "done per second", "median", "p99", "requests"], rows),
    )


def callers_card(one: Series, of: Measurement) -> Markup:
    """Draw throughput against latency, a mark for each number of callers at a time."""
    found = of.get("concurrency")
    if found is None:
        return Markup("")
    points, knee = found["points"], found["knee"]
    labels = [
        f"{p['callers']} callers: {rate(p['throughput'])} images/s at {duration(p['p50'])}"
        + (", the knee" if p["callers"] == knee else "")
        for p in points
    ]
    path = [(p["throughput"], p["p50"] * 1e3) for p in points]
    chart = line_chart(
        [Line(one.name, path, one.style, marks=True, labels=labels)],
        Axis("images per second"),
        Axis("ms a call, median", log=True),
        "; ".join(labels),
        title=f"{of['operation']} under several callers, {one.name}",
    )
    rows = [
        [
            f"{p['callers']}" + (", knee" if p["callers"] == knee else ""),
            rate(p["throughput"]),
            duration(p["p50"]),
            duration(p["p99"]),
            str(p["count"]),
        ]
        for p in points
    ]
    return card(
        f"{of['operation']}, {of['batch']} a call: {one.name}",
        chart,
        keys((one.name, one.style)),
        f"Each caller calls again as soon as it has its answer. Past the knee, {knee} at a time, more of them wait "
        "more than they get.",
        table(["callers", "images/s", "median", "p99", "calls"], rows),
    )


def _best(server: Server) -> str:
    if server["latency_bound_s"] is None:
        return "At rates that were given"
    bound, best = duration(server["latency_bound_s"]), server["max_rate"]
    if best is None:
        return f"No rate that was tried keeps the 99th percentile under {bound}"
    return f"Up to {rate(best)} images per second keep the 99th percentile under {bound}"


def roofline_card(series: Sequence[Series], operation: str) -> Markup:
    """Draw the share of the machine's roofline that is reached, where it is known."""
    shown = [
        (one, [of for of in one.of(operation, "single-stream") if of["flops_share"] is not None]) for one in series
    ]
    shown = [(one, found) for one, found in shown if found]
    if not shown:
        return Markup("")
    sizes = sorted({of["batch"] for _, found in shown for of in found})
    lines = [_line(one, found, lambda of: 100 * (of["flops_share"] or 0), _reached) for one, found in shown]
    roof = Line("roofline", [(sizes[0], 100), (sizes[-1], 100)], "bound")
    chart = line_chart(
        [*lines, roof],
        Axis("batch", ticks=sizes, log=True),
        Axis("% of the roofline", ticks=[0, 20, 40, 60, 80, 100], zero=True),
        _description(_named(shown), _reached),
        title=f"Share of the roofline that {operation} reaches",
    )
    return card(
        f"Roofline, {operation}",
        chart,
        key_of([one for one, _ in shown], ("the roofline", "bound")),
        "Of what the arithmetic units and the memory allow for this work.",
        _by_batch(_named(shown), sizes, [_reached], "share, at batch"),
    )


_Rows = Sequence[tuple[str, Sequence[Measurement]]]
_Words = Callable[[Measurement], str]


def _named(shown: Sequence[tuple[Series, Sequence[Measurement]]]) -> _Rows:
    return [(one.name, found) for one, found in shown]


def _line(
    one: Series,
    found: Sequence[Measurement],
    value: Callable[[Measurement], float],
    words: _Words,
    *,
    dashed: bool = False,
) -> Line:
    style = f"{one.style} dashed" if dashed else one.style
    labels = [f"batch {of['batch']}, {words(of)}" for of in found]
    return Line(one.name, [(of["batch"], value(of)) for of in found], style, marks=True, labels=labels)


def _curve(name: str, points: Sequence[tuple[float, float]], style: str) -> Line:
    labels = [f"{duration(seconds)} at {rate(offered)} per second" for offered, seconds in points]
    return Line(name, [(offered, seconds * 1e3) for offered, seconds in points], style, marks=True, labels=labels)


def _batch_axis(series: Sequence[Series], operation: str, scenarios: Sequence[str]) -> Axis:
    sizes = sorted({batch for scenario in scenarios for batch in batches(series, operation, scenario)})
    return Axis("batch", ticks=sizes, log=True)


def _by_batch(rows: _Rows, sizes: Sequence[int], words: Sequence[_Words], corner: str) -> Markup:
    """Make a column for each batch. `words` are taken in turn, row by row; a dagger marks what was not warm."""
    cells, cold = [], False
    for index, (name, found) in enumerate(rows):
        write = words[index % len(words)]
        by_batch = {of["batch"]: write(of) + ("" if of["warm"] else " †") for of in found}
        cold = cold or not all(of["warm"] for of in found)
        cells.append([name, *(by_batch.get(batch, "–") for batch in sizes)])
    note = el("p", "† The warm-up ended before the times were stable.", class_="keys below") if cold else ""
    return join(table([corner, *map(str, sizes)], cells), note)


def _description(rows: _Rows, words: _Words) -> str:
    return "; ".join(
        f"{name}: " + ", ".join(f"batch {of['batch']} {words(of)}" for of in found) for name, found in rows
    )


def _reached(of: Measurement) -> str:
    return "–" if of["flops_share"] is None else f"{100 * of['flops_share']:.1f} %"


def card(title: str, chart: Markup, key: Markup, about: str, data: Markup, *, wide: bool = False) -> Markup:
    """Return a chart with its key, a sentence about it and its data; ``wide`` puts the data beside it."""
    below = el("p", about, class_="keys below")
    rows = el("div", data, class_="scroll", tabindex=0, role="region", aria_label=f"{title}: table")
    if not wide:
        return el("div", el("h3", title), chart, key, below, rows, class_="card")
    beside = el("div", el("div", chart, key, below), rows, class_="pairs")
    return el("div", el("h3", title), beside, class_="card wide")
