"""Two results files side by side: what became slower, beyond what noise explains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import InputError
from .differences import cell_name, other_circumstances, other_work, warnings_of
from .results import Cell, Measurement, Results, Server
from .statistics import MIN_SAMPLES, percentile, ratio_ci

Verdict = Literal["faster", "slower", "same within noise", "only in A", "only in B", "not comparable"]

MEMORY_SLACK = 16 << 20
"""Bytes by which a peak may grow without being a regression: allocators and pages, whatever the share."""

_Key = tuple[str, str, str, int | None, str, str, int]


@dataclass(frozen=True)
class Metric:
    """One number of a measurement in both files. `ratio` is B / A, `ci95` its interval where there is one.

    `name` is "latency" (median, seconds), "throughput" or "max_rate" (images per second), "peak_host_bytes" or
    "peak_device_bytes". `verdict` is "faster", "slower" or "same within noise", of memory "more", "less" or "same".
    Memory and `max_rate` are single numbers without an interval: there a change is one past the threshold.
    """

    name: str
    a: float
    b: float
    ratio: float
    ci95: tuple[float, float] | None
    verdict: str
    regression: bool


@dataclass(frozen=True)
class Row:
    """One measurement. `verdict` is that of the first of `metrics`; `reason` says why there is none to compare."""

    backend: str
    precision: str
    device: str
    threads: int | None
    operation: str
    scenario: str
    batch: int
    verdict: Verdict
    reason: str | None
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in "encode, single-stream, batch 8 (onnxruntime fp32 cpu)"."""
        return f"{self.operation}, {self.scenario}, batch {self.batch} ({cell_name(asdict(self))})"

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

    def to_json(self) -> dict[str, Any]:
        """Return all of it, as JSON holds it."""
        rows = [{**asdict(row), "name": row.name, "regression": row.regression} for row in self.rows]
        return {**asdict(self), "rows": rows, "regressions": [row.name for row in self.regressions]}


def compare(a: Results, b: Results, threshold: float = 0.05) -> Comparison:
    """Compare the measurements that both files have, by cell, operation, scenario and batch; B is the newer one.

    "slower" means that the 95 % interval of the ratio leaves no room for "the same"; a regression, that all of the
    interval lies past `threshold`, a share such as 0.05. Where the files did different work, nothing is compared. The
    intervals know the noise inside a run alone: a busy machine is in `warnings`, another one in `differences`.

    Raises InputError for a threshold outside 0 to 1.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold!r}; expected a share from 0 to 1, such as 0.05 for 5 %")
    reasons = other_work(a, b)
    before, after = _measurements(a), _measurements(b)
    rows = []
    for key in dict.fromkeys([*before, *after]):
        ours, theirs = before.get(key), after.get(key)
        if ours is not None and theirs is not None:
            rows.append(_row(key, ours, theirs, threshold, "; ".join(reasons)))
        else:
            only: Verdict = "only in A" if theirs is None else "only in B"
            rows.append(Row(*key, only, _problem(b if theirs is None else a, key), (), ()))
    differences = (*reasons, *other_circumstances(a, b))
    warnings = tuple(f"{side}: {text}" for side, of in (("A", a), ("B", b)) for text in warnings_of(of))
    return Comparison(a.source, b.source, threshold, tuple(rows), reasons, differences, warnings)


def _measurements(results: Results) -> dict[_Key, Measurement]:
    return {
        (*_cell_key(cell), of["operation"], of["scenario"], of["batch"]): of
        for cell in results.data["cells"]
        for of in cell["measurements"]
    }


def _cell_key(cell: Cell) -> tuple[str, str, str, int | None]:
    return cell["backend"], cell["precision"], cell["device"], cell["threads"]


def _row(key: _Key, a: Measurement, b: Measurement, threshold: float, reason: str) -> Row:
    warnings = tuple(
        f"{side} never became stable in its warm-up" for side, of in (("A", a), ("B", b)) if not of["warm"]
    )
    metrics: tuple[Metric, ...] = ()
    if not reason:
        fewest = min(len(of["latency_s"]["samples"]) for of in (a, b))
        metrics = tuple(_metrics(a, b, threshold))
        if not any(metric.name in ("latency", "throughput", "max_rate") for metric in metrics):
            reason = (
                f"{fewest} samples; expected at least {MIN_SAMPLES}, all positive"
                if a["server"] is None
                else "the servers had other latency bounds and other rates"
            )
    if reason:
        return Row(*key, "not comparable", reason, metrics, warnings)
    return Row(*key, metrics[0].verdict, None, metrics, warnings)  # type: ignore[arg-type]


def _metrics(a: Measurement, b: Measurement, threshold: float) -> Iterator[Metric]:
    """Yield the metrics that can be compared, the one that the scenario is about first."""
    times = list(_times(a, b, threshold))
    yield from reversed(times) if a["scenario"] == "offline" else times
    for name, before, after in (
        ("peak_host_bytes", a["peak_host_bytes"], b["peak_host_bytes"]),
        ("peak_device_bytes", a["peak_device_bytes"], b["peak_device_bytes"]),
    ):
        if before and after is not None:
            past = abs(after - before) > max(threshold * before, MEMORY_SLACK)
            verdict = ("more" if after > before else "less") if past else "same"
            yield Metric(name, before, after, after / before, None, verdict, verdict == "more")


def _times(a: Measurement, b: Measurement, threshold: float) -> Iterator[Metric]:
    if a["server"] is not None and b["server"] is not None:
        yield from _max_rate(a["server"], b["server"], threshold)
        # Latencies at other rates are other work, and the achieved rate is the offered one.
        if a["server"]["offered_rate"] == b["server"]["offered_rate"]:
            yield from _latency(a, b, threshold)
        return
    yield from _latency(a, b, threshold)
    yield from _throughput(a, b, threshold)


def _latency(a: Measurement, b: Measurement, threshold: float) -> Iterator[Metric]:
    before, after = a["latency_s"]["samples"], b["latency_s"]["samples"]
    if min(len(before), len(after)) >= MIN_SAMPLES and min(*before, *after) > 0:
        medians = percentile(before, 50), percentile(after, 50)
        yield _timed("latency", *medians, ratio_ci(before, after), 1 + threshold, higher_is_slower=True)


def _throughput(a: Measurement, b: Measurement, threshold: float) -> Iterator[Metric]:
    before, after = a["throughput_ci95"], b["throughput_ci95"]
    few = min(len(of["latency_s"]["samples"]) for of in (a, b)) < MIN_SAMPLES
    if before and after and before[0] > 0 and a["throughput"] > 0 and not few:
        # The quotient of two intervals is wider than needed, which errs on the side of "the same".
        ci95 = (after[0] / before[1], after[1] / before[0])
        yield _timed("throughput", a["throughput"], b["throughput"], ci95, 1 - threshold, higher_is_slower=False)


def _max_rate(a: Server, b: Server, threshold: float) -> Iterator[Metric]:
    before, after = a["max_rate"], b["max_rate"] or 0.0  # none: no rate at all stayed under the bound
    if a["latency_bound_s"] == b["latency_bound_s"] and before:
        ratio = after / before
        past = abs(ratio - 1) > threshold
        # A search is not repeated, so nobody knows its noise: it is shown and fails nothing.
        verdict = ("faster" if ratio > 1 else "slower") if past else "same within noise"
        yield Metric("max_rate", before, after, ratio, None, verdict, False)


def _timed(name: str, a: float, b: float, ci95: tuple[float, float], limit: float, *, higher_is_slower: bool) -> Metric:
    above, below = ci95[0] > 1, ci95[1] < 1
    slower, faster = (above, below) if higher_is_slower else (below, above)
    past = ci95[0] > limit if higher_is_slower else ci95[1] < limit
    verdict = "slower" if slower else "faster" if faster else "same within noise"
    return Metric(name, a, b, b / a, ci95, verdict, slower and past)


def _problem(results: Results, key: _Key) -> str | None:
    """Return why the other file lacks a measurement, where it says so."""
    problems = [cell["problem"] for cell in results.data["cells"] if _cell_key(cell) == key[:4]]
    return next((problem for problem in problems if problem is not None), None)
