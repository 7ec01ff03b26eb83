"""Two results files side by side, or the cells of one: what became slower, beyond what noise explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from ..errors import InputError
from .differences import cell_name, doubts, other_circumstances, other_work, same_processor, warnings_of
from .plan import AXES
from .results import Cell, Measurement, Process, Results
from .row_metrics import memory_of, metrics_of
from .statistics import ratio_interval
from .steady import median_seconds, same_speed, undisturbed, undisturbed_pairs
from .verdicts import Metric, Rule

RowVerdict = Literal[
    "faster", "slower", "same within noise", "inconclusive", "only in A", "only in B", "not comparable"
]
Outcome = Literal["ok", "regression", "inconclusive", "nothing to compare"]

EXIT_CODES: dict[Outcome, int] = {"ok": 0, "regression": 1, "inconclusive": 3, "nothing to compare": 4}
"""What `coda bench compare` and `coda bench ab` end with; 2 is a mistake in the command line."""

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
        """The rows that became worse past the threshold, and those that ran in A and fail in B."""
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
    metrics = () if reason else tuple(metrics_of(a, b, rule))
    if not metrics and not reason:
        reason = _NOTHING.get(a["scenario"], "no time was measured")
    if reason:
        return Row(*key, "not comparable", reason, (), warnings)
    metrics += tuple(memory_of(a, b, rule.threshold, other_past=other_past))
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


def _problem(results: Results, key: _Key) -> str | None:
    """Return why the other file lacks a measurement, where it says so."""
    cells = [cell for cell in results.data["cells"] if _cell_key(cell) == key[:4]]
    problems = [cell["problem"] for cell in cells]
    problems += [
        of["problem"]
        for cell in cells
        for of in cell.get("skipped", ())
        if (of["operation"], of["scenario"], of["batch"]) == key[4:]
    ]
    return next((problem for problem in problems if problem is not None), None)


def checked_threshold(threshold: float) -> float:
    """Return it. Raises InputError for none from 0 to 1."""
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold!r}; expected a share from 0 to 1, such as 0.05 for 5 %")
    return threshold
