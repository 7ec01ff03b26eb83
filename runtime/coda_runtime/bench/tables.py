"""The rows of the report's tables: what was loaded, and every number that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from ..format.parts import PARTS
from ..format.profiles import profiles_text
from ..report.words import duration, rate, size
from .breakdown import COMPUTE, DEVICE_TO_HOST, HOST_TO_DEVICE
from .compare import Comparison
from .differences import cell_name
from .percentiles import percentile_words
from .results import LoadedArtifact, Measurement
from .series import Series
from .statistics import KNOWN_FROM
from .verdicts import Metric

MEASURED = ("measurement", "median", "CI of the median", "p90", "p99", "mean", "min", "max", "repeats", "outliers")
"""The columns of `measured_rows`."""
METRICS = (
    "measurement", "images/s", "CI", "peak, host", "peak, device", "CPUs busy", "J/image", "warm-up runs",
    *PARTS, "files", "runtime", "host to device", "compute", "device to host", "roofline",
)  # fmt: skip
"""The columns of `metric_rows`."""


def loaded(series: Sequence[Series]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: for each cell the file of each part, what ran it and where."""
    parts = list(dict.fromkeys(of["part"] for one in series for of in one.cell["artifacts"]))
    rows = []
    for one in series:
        files = {
            of["part"]: f"{of['file']} ({of['backend']}, {of['device'] or 'unknown device'}{_profiles(of)})"
            for of in one.cell["artifacts"]
        }
        rows.append([one.name, *(files.get(part, "–") for part in parts)])
    return ["cell", *parts], rows


def _profiles(of: LoadedArtifact) -> str:
    """Return an engine's batch profiles, where it has several."""
    found = [(low, best, high) for low, best, high in of.get("profiles", ())]
    return f", profiles {profiles_text(found)}" if len(found) > 1 else ""


def measured_rows(series: Sequence[Series]) -> list[list[str]]:
    """Return durations of each measurement, under `MEASURED`."""
    rows: list[list[str]] = []
    for name, of in _all(series):
        if of is None:
            rows.append([name])
            continue
        latency = of["latency_s"]
        times = [percentile_words(latency, q) for q in KNOWN_FROM]
        times += [duration(of) for of in (latency["mean"], latency["min"], latency["max"])]
        interval = " – ".join(duration(edge) for edge in latency["ci95"])
        thinned = " (samples thinned)" if latency.get("samples_thinned") else ""
        rows.append(
            [name, duration(latency["p50"]), interval, *times, f"{of['repeats']}{thinned}", str(of["outliers"])]
        )
    return rows


def metric_rows(series: Sequence[Series]) -> list[list[str]]:
    """Return everything else of each measurement, under `METRICS`."""
    rows: list[list[str]] = []
    for name, of in _all(series):
        if of is None:
            rows.append([name])
            continue
        edges, parts, transfers = of["throughput_ci95"], of["parts_s"] or {}, of.get("transfers_s") or {}
        rows.append(
            [
                name,
                rate(of["throughput"]),
                " – ".join(rate(edge) for edge in edges) if edges else "–",
                _size(of["peak_host_bytes"]),
                _size(of["peak_device_bytes"]),
                _digits(of.get("busy_cpus")),
                _digits(of.get("joules_per_image")),
                f"{of['warmup_runs']}" + ("" if of["warm"] else ", never stable"),
                *(_duration(parts.get(part)) for part in (*PARTS, "files", "runtime")),
                *(_duration(transfers.get(step)) for step in (HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST)),
                "–" if of["flops_share"] is None else f"{100 * of['flops_share']:.1f} %",
            ]
        )
    return rows


def compared_rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a comparison: a row for each measurement in both files, a column for each metric."""
    metrics = list(dict.fromkeys(metric.name for row in found.rows for metric in row.metrics))
    rows: list[list[str]] = []
    cell = ""
    for row in found.rows:
        there = {metric.name: _judged(metric) for metric in row.metrics}
        if there:
            name = cell_name(asdict(row))
            rows += [[name]] * (name != cell)
            cell = name
            what = f"{row.operation}, {row.scenario}, batch {row.batch}"
            rows.append([what, *(there.get(name, "–") for name in metrics)])
    return ["B / A (99 %)", *(name.removesuffix("_bytes").replace("_", " ") for name in metrics)], rows


def _judged(metric: Metric) -> str:
    interval = "" if metric.ci99 is None else f" ({metric.ci99[0]:.3f} – {metric.ci99[1]:.3f})"
    return f"{metric.ratio:.3f}{interval}, {'regression' if metric.regression else metric.verdict}"


def side_by_side(series: Sequence[Series]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: a row for each measurement that any of them has, a column for each of them."""
    found = [{(of["operation"], of["scenario"], of["batch"]): of for of in one.cell["measurements"]} for one in series]
    rows = [
        [f"{key[0]}, {key[1]}, batch {key[2]}", *(_speed(of.get(key)) for of in found)]
        for key in dict.fromkeys(key for of in found for key in of)
    ]
    return ["median, images a second", *(one.name for one in series)], rows


def _speed(of: Measurement | None) -> str:
    return "–" if of is None else f"{duration(of['latency_s']['p50'])}, {rate(of['throughput'])}/s"


def _all(series: Sequence[Series]) -> Iterator[tuple[str, Measurement | None]]:
    """Yield each measurement under its name, those of a cell after the name of the cell."""
    for one in series:
        yield one.name, None
        for of in one.cell["measurements"]:
            yield f"{of['operation']}, {of['scenario']}, batch {of['batch']}", of


def _size(number: int | None) -> str:
    return "–" if number is None else size(number)


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
