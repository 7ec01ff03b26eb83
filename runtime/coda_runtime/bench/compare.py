"""Two results files side by side, or the cells of one: what became slower, beyond what noise explains."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from ..errors import InputError
from .breakdown import steps_of
from .differences import cell_name, doubts, other_circumstances, other_work, same_processor, warnings_of
from .plan import AXES
from .results import Cell, Measurement, Process, Results
from .statistics import KNOWN_FROM, MIN_PAIRS, MIN_PROCESSES, ratio_interval
from .steady import median_seconds, same_speed, undisturbed, undisturbed_pairs
from .verdicts import Metric, Rule, judge

RowVerdict = Literal[
    "faster", "slower", "same within noise", "inconclusive", "only in A", "only in B", "not comparable"
]
Outcome = Literal["ok", "regression", "inconclusive", "nothing to compare"]

EXIT_CODES: dict[Outcome, int] = {"ok": 0, "regression": 1, "inconclusive": 3, "nothing to compare": 4}
"""What `coda bench compare` and `coda bench ab` end with; 2 is a mistake in the command line."""

LIKE = 1.5
"""By which factor the calls of a process may differ for high percentiles of either to be alike."""

MEMORY_SLACK = 16 << 20
"""Bytes by which a peak may grow without being a regression: allocators and pages, whatever the share."""

_NOTHING = {
    "server": "the servers had other bounds",
    "offered": "the servers were offered other rates",
    "concurrent": "no number of callers is in every process of both",
}
"""Why there is nothing to compare in a scenario."""

_Key = tuple[str, str, str, int | str | None, str, str, int]
_Work = tuple[str, str, int]
_Past = tuple[tuple[str | int, ...], ...]


@dataclass(frozen=True)
class Row:
    """One measurement. `verdict` is that of the first of `metrics`; `reason` says why there is none to compare.

    With `--by` the axis that was compared holds both of its values, as in "fp32 to bf16". `bundle` is told where the
    files hold several.
    """

    backend: str
    precision: str
    device: str
    threads: int | str | None
    operation: str
    scenario: str
    batch: int
    verdict: RowVerdict
    reason: str | None
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...]
    bundle: str | None = None

    @property
    def name(self) -> str:
        """As in "encode, single-stream, batch 8 (onnxruntime fp32 cpu)"; the bundle, if told, before the cell."""
        cell = ": ".join(filter(None, (self.bundle, cell_name(asdict(self)))))
        return f"{self.operation}, {self.scenario}, batch {self.batch} ({cell})"

    @property
    def compared(self) -> bool:
        """Whether both files have the measurement, and of the same work."""
        return bool(self.metrics) and self.verdict != "not comparable"

    @property
    def regression(self) -> bool:
        """Whether one of its metrics became worse past the threshold, or it does not run any more."""
        lost = self.verdict == "only in A" and self.reason is not None
        return lost or any(metric.regression for metric in self.metrics)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `differences` and `warnings` are sentences; those in `other_work` forbid comparing."""

    a: str
    b: str
    threshold: float
    rows: tuple[Row, ...]
    other_work: tuple[str, ...]
    differences: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def regressions(self) -> list[Row]:
        """The rows that became worse past the threshold, and those whose cell ran in A and fails in B."""
        return [row for row in self.rows if row.regression]

    def outcome(self, *, allow_missing: bool = False, allow_inconclusive: bool = False) -> Outcome:
        """Return what to conclude: a regression comes first, then what A has and B lacks, then what is not sure."""
        if self.regressions:
            return "regression"
        missing = [row for row in self.rows if row.verdict == "only in A"]
        if not any(row.compared for row in self.rows) or (missing and not allow_missing):
            return "nothing to compare"
        if not allow_inconclusive and any(row.verdict in ("inconclusive", "not comparable") for row in self.rows):
            return "inconclusive"
        return "ok"

    def to_json(self) -> dict[str, Any]:
        """Return all of it, as JSON holds it."""
        rows = [{**asdict(row), "name": row.name, "regression": row.regression} for row in self.rows]
        return {**asdict(self), "rows": rows, "regressions": [row.name for row in self.regressions]}


def compare(a: Results, b: Results, threshold: float = 0.05, *, paired: bool = False) -> Comparison:
    """Compare the measurements that both files have, by cell, operation, scenario and batch; B is the newer one.

    What is judged is the difference between processes, by `verdicts.judge`; with fewer than statistics.MIN_PROCESSES of
    them, or on a busy machine, nothing is concluded. Where the files did different work, nothing is compared; another
    machine or version is told in `differences`.

    Args:
        a: the older results.
        b: the newer ones.
        threshold: a share such as 0.05.
        paired: the processes of both took turns, as those of `coda bench ab`.

    Raises InputError for a threshold outside 0 to 1.
    """
    rule = Rule(checked_threshold(threshold), paired, doubts(a, b), one_machine=same_processor(a, b))
    reasons = other_work(a, b)
    before, after = _measurements(a), _measurements(b)
    pasts = {side: dict(_pasts(of)) for side, of in (("A", a), ("B", b))}
    rows = []
    for key in dict.fromkeys([*before, *after]):
        ours, theirs = before.get(key), after.get(key)
        if ours is not None and theirs is not None:
            kept = pasts["A"][key] != pasts["B"][key]
            rows.append(_row(key, ours, theirs, rule, "; ".join(reasons), other_past=kept))
        else:
            only: RowVerdict = "only in A" if theirs is None else "only in B"
            rows.append(Row(*key, only, _problem(b if theirs is None else a, key), (), ()))
    differences = (*reasons, *other_circumstances(a, b))
    warnings = tuple(f"{side}: {text}" for side, of in (("A", a), ("B", b)) for text in warnings_of(of))
    return Comparison(a.source, b.source, threshold, tuple(rows), reasons, differences, warnings)


def compare_cells(results: Results, axis: str, threshold: float = 0.05) -> Comparison:
    """Compare the cells of one file that differ in `axis` alone with the first that ran, as `compare` compares files.

    Raises InputError for another axis than those of a cell (`plan.AXES`), and where no two cells differ in it alone.
    """
    if axis not in AXES:
        raise InputError(f"the axis is {axis!r}; expected {', '.join(AXES)}")
    rule = Rule(checked_threshold(threshold), False, doubts(results), one_machine=axis != "threads")
    first: dict[tuple[object, ...], Cell] = {}
    rows: list[Row] = []
    for cell in results.data["cells"]:
        others = tuple(cell[name] for name in AXES if name != axis)  # type: ignore[literal-required]
        base = first.setdefault(others, cell)
        if not base["measurements"]:  # it could not run, and the warnings say why
            first[others] = cell
        elif base is not cell:
            rows += _cell_rows(base, cell, axis, rule)
    if not rows:
        raise InputError(f"no two cells of {results.source} differ in {axis} alone; measure several: --{axis} X,Y")
    return Comparison(results.source, results.source, threshold, tuple(rows), (), (), warnings_of(results))


def _cell_rows(a: Cell, b: Cell, axis: str, rule: Rule) -> Iterator[Row]:
    def value(name: str) -> Any:
        found = [of[name] for of in (a, b)]  # type: ignore[literal-required]
        words = ["the library's choice" if of is None else str(of) for of in found]
        return " to ".join(words) if name == axis else found[0]

    theirs = {_work(of): of for of in b["measurements"]}
    pasts = [dict(_pasts_of(cell)) for cell in (a, b)]
    for of in a["measurements"]:
        work = _work(of)
        key: _Key = (value("backend"), value("precision"), value("device"), value("threads"), *work)
        if work in theirs:
            yield _row(key, of, theirs[work], rule, "", other_past=pasts[0][work] != pasts[1][work])
        else:
            yield Row(*key, "only in A", b["problem"], (), ())


def _measurements(results: Results) -> dict[_Key, Measurement]:
    return {(*_cell_key(cell), *_work(of)): of for cell in results.data["cells"] for of in cell["measurements"]}


def _work(of: Measurement) -> _Work:
    return of["operation"], of["scenario"], of["batch"]


def _pasts(results: Results) -> Iterator[tuple[_Key, _Past]]:
    for cell in results.data["cells"]:
        for work, past in _pasts_of(cell):
            yield (*_cell_key(cell), *work), past


def _pasts_of(cell: Cell) -> Iterator[tuple[_Work, _Past]]:
    """Yield what was measured in the same processes up to each measurement: engine libraries keep what it took."""
    past: _Past = ()
    for of in cell["measurements"]:
        concurrency = of.get("concurrency")
        callers = [] if concurrency is None else [point["callers"] for point in concurrency["points"]]
        past = (*past, (*_work(of), *callers))
        yield _work(of), past


def _cell_key(cell: Cell) -> tuple[str, str, str, int | None]:
    return cell["backend"], cell["precision"], cell["device"], cell["threads"]


def _row(key: _Key, a: Measurement, b: Measurement, rule: Rule, reason: str, *, other_past: bool) -> Row:
    warnings = tuple(
        f"{side} never became stable in its warm-up" for side, of in (("A", a), ("B", b)) if not of["warm"]
    )
    a, b, doubt = _undisturbed(a, b, rule)
    rule = replace(rule, doubt=rule.doubt or doubt, pace=_pace(a, b) if rule.one_machine and not rule.paired else None)
    metrics = () if reason else tuple(_metrics(a, b, rule))
    if not metrics and not reason:
        reason = _NOTHING.get(a["scenario"], "no time was measured")
    if reason:
        return Row(*key, "not comparable", reason, (), warnings)
    metrics += tuple(_memory(a, b, rule.threshold, other_past=other_past))
    return Row(*key, cast(RowVerdict, metrics[0].verdict), metrics[0].reason, metrics, warnings)


def _undisturbed(a: Measurement, b: Measurement, rule: Rule) -> tuple[Measurement, Measurement, str | None]:
    """Return both with those processes that nothing disturbed, and why they may not be compared."""
    nothing = "other work, or another speed of the machine, disturbed every process"
    if rule.paired:
        pairs = undisturbed_pairs(a["processes"], b["processes"])
        all_pairs = range(min(len(a["processes"]), len(b["processes"])))
        return _with(a, pairs or all_pairs), _with(b, pairs or all_pairs), None if pairs else nothing
    kept = (undisturbed(a["processes"]), undisturbed(b["processes"]))
    if not all(kept):
        return a, b, nothing
    a, b = _with(a, kept[0]), _with(b, kept[1])
    times = [median_seconds(of["processes"]) for of in (a, b)]
    if rule.one_machine and None not in times and not same_speed(time for time in times if time is not None):
        took = [f"{(time or 0) * 1e3:.3g} ms" for time in times]
        return a, b, f"the machine ran at another speed: a product of matrices took {took[0]} in A and {took[1]} in B"
    return a, b, None


def _pace(a: Measurement, b: Measurement) -> tuple[float, float] | None:
    """Return an interval of the factor by which the machine was slower in B, None where nobody knows."""
    times = [[median_seconds([process]) for process in of["processes"]] for of in (a, b)]
    known = [[time for time in side if time] for side in times]
    return ratio_interval(known[0], known[1]) if all(known) else None


def _with(of: Measurement, kept: Sequence[int]) -> Measurement:
    processes: list[Process] = [of["processes"][i] for i in kept]
    return {**of, "processes": processes}


def _metrics(a: Measurement, b: Measurement, rule: Rule) -> Iterator[Metric]:
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


def _memory(a: Measurement, b: Measurement, threshold: float, *, other_past: bool) -> Iterator[Metric]:
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


def _problem(results: Results, key: _Key) -> str | None:
    """Return why the other file lacks a measurement, where it says so."""
    problems = [cell["problem"] for cell in results.data["cells"] if _cell_key(cell) == key[:4]]
    return next((problem for problem in problems if problem is not None), None)


def checked_threshold(threshold: float) -> float:
    """Return it. Raises InputError for none from 0 to 1."""
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold!r}; expected a share from 0 to 1, such as 0.05 for 5 %")
    return threshold
