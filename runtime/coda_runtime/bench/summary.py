"""From what workers sent to the cells of results.json."""

from __future__ import annotations

import statistics as stdlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from .callers import with_knee
from .one_call import median_timeline
from .results import CallersPoint, Cell, Concurrency, Latency, Load, Measurement, Process, Roofline, Skipped
from .statistics import KNOWN_FROM, median_ci, outliers, percentile, upper_bound
from .steady import undisturbed

MAX_SAMPLES = 2000
"""Longer lists of samples are thinned to so many, evenly in time; the numbers beside them are those of all."""

Message = Mapping[str, Any]


def summarise_cell(asked: Mapping[str, Any], runs: Sequence[Sequence[Message]], problem: str | None) -> Cell:
    """Make a cell of its processes' messages, a list each. `problem` counts only if nothing was measured."""
    loaded = [message for run in runs for message in run if message["kind"] == "loaded"]
    measured: dict[tuple[str, str, int], list[Message]] = {}
    for message in (message for run in runs for message in run if message["kind"] == "measured"):
        measured.setdefault((message["operation"], message["scenario"], message["batch"]), []).append(message)
    measurements = [summarise(messages) for messages in measured.values()]
    skipped: dict[tuple[str, str, int], Skipped] = {}
    for message in (message for run in runs for message in run if message["kind"] == "skipped"):
        operation, scenario, batch = message["operation"], message["scenario"], message["batch"]
        if (operation, scenario, batch) not in measured:
            of: Skipped = {"operation": operation, "scenario": scenario, "batch": batch, "problem": message["problem"]}
            skipped[operation, scenario, batch] = of
    return {
        "backend": asked["backend"],
        "precision": asked["precision"],
        "device": asked["device"],
        "threads": asked["threads"],
        "artifacts": loaded[0]["artifacts"] if loaded else [],
        "load": _load([message["load"] for message in loaded]) if loaded else None,
        "problem": None if measurements else problem or "nothing was measured",
        "measurements": measurements,
        "skipped": [*skipped.values()],
    }


def summarise(messages: Sequence[Message]) -> Measurement:
    """Make one measurement of what each process sent about it: samples together, the highest peaks, the median parts.

    Of several server runs, all numbers but those of `processes` are of the one with the median rate.
    """
    first = messages[0]
    processes = [_process(message) for message in messages]
    messages = [messages[i] for i in undisturbed(messages)] or messages
    searched = first["scenario"] == "server" and first["server"] is not None
    if searched:
        by_rate = sorted(messages, key=lambda message: message["server"]["max_rate"] or 0.0)
        messages = [by_rate[(len(by_rate) - 1) // 2]]
    concurrency = _concurrency([message["concurrency"] for message in messages if message.get("concurrency")])
    sampled = messages
    if concurrency is not None:  # one of another knee has the samples of other callers
        sampled = [message for message in messages if message["concurrency"]["knee"] == concurrency["knee"]] or messages
    samples = [sample for message in sampled for sample in message["samples"]]
    low, high = _median_interval(samples, [] if searched else [_process(message) for message in sampled])
    images, server = first["images_per_sample"], messages[0]["server"]
    throughput = images / percentile(samples, 50) if server is None else server["achieved_rate"]
    if concurrency is not None:
        throughput = next(p["throughput"] for p in concurrency["points"] if p["callers"] == concurrency["knee"])
    watts = _medians([message.get("watts") or {"cpu": None, "gpu": None} for message in messages]) or {}
    throughput_ci = None if server is not None or concurrency is not None else [images / high, images / low]
    return {
        "operation": first["operation"],
        "scenario": first["scenario"],
        "batch": first["batch"],
        "repeats": len(samples),
        "warmup_runs": sum(message["warmup_runs"] for message in messages),
        "warm": all(message["warm"] for message in messages),
        "processes": processes,
        "latency_s": _latency(samples, [low, high]),
        "throughput": throughput,
        "throughput_ci95": throughput_ci,
        "outliers": outliers(samples),
        "peak_host_bytes": _highest(message["peak_host_bytes"] for message in messages),
        "peak_device_bytes": _highest(message["peak_device_bytes"] for message in messages),
        "parts_s": _medians([message["parts_s"] for message in messages]),
        "transfers_s": _medians([message.get("transfers_s") for message in messages]),
        "server": server,
        "concurrency": concurrency,
        "busy_cpus": (_medians([{"cpus": message.get("busy_cpus")} for message in messages]) or {})["cpus"],
        "watts": watts,
        "joules_per_image": _joules(watts, throughput),
        "flops_share": (_medians([{"share": message.get("flops_share")} for message in messages]) or {})["share"],
        "roofline": _roofline([message.get("roofline") for message in messages]),
        "timeline": median_timeline([message.get("timeline") for message in messages]),
    }


def _process(message: Message) -> Process:
    """Return the numbers of one process: what differs between them is what no number of samples shows."""
    samples, server = message["samples"], message["server"]
    return {
        "count": len(samples),
        "p50": percentile(samples, 50),
        "p90": percentile(samples, 90),
        "p99": percentile(samples, 99),
        "parts_s": message["parts_s"],
        "transfers_s": message.get("transfers_s"),
        "max_rate": None if server is None else server["max_rate"],
        "callers": (message.get("concurrency") or {}).get("points"),
        "reference_s": message.get("reference_s"),
        "others": message.get("others"),
    }


def _median_interval(samples: Sequence[float], processes: Sequence[Process]) -> tuple[float, float]:
    """Return the interval of the median, wide enough for the median of every process to lie in it."""
    low, high = median_ci(samples)
    medians = [process["p50"] for process in processes]
    return min(low, *medians, high), max(low, *medians, high)


def _latency(samples: list[float], interval: list[float]) -> Latency:
    known = {q: len(samples) >= count for q, count in KNOWN_FROM.items()}
    out: Latency = {
        "count": len(samples),
        "p50": percentile(samples, 50),
        "p90": percentile(samples, 90) if known[90] else None,
        "p90_upper": upper_bound(samples, 90),
        "p99": percentile(samples, 99) if known[99] else None,
        "p99_upper": upper_bound(samples, 99),
        "mean": float(np.mean(samples)),
        "min": min(samples),
        "max": max(samples),
        "ci95": interval,
        "samples": samples,
    }
    if len(samples) > MAX_SAMPLES:
        kept = np.linspace(0, len(samples) - 1, MAX_SAMPLES).round().astype(int)
        out["samples"] = [samples[index] for index in kept]
        out["samples_thinned"] = True
    return out


def _concurrency(found: Sequence[Concurrency]) -> Concurrency | None:
    """Return the points of each number of callers, medians over the processes; their counts are added up."""
    if not found:
        return None
    points: list[CallersPoint] = [
        {
            "callers": same[0]["callers"],
            "count": sum(point["count"] for point in same),
            "throughput": stdlib.median(point["throughput"] for point in same),
            "p50": stdlib.median(point["p50"] for point in same),
            "p99": stdlib.median(point["p99"] for point in same),
        }
        for same in zip(*(one["points"] for one in found), strict=True)
    ]
    return with_knee(points)


def _roofline(found: Sequence[Roofline | None]) -> Roofline | None:
    medians = _medians(found)
    return None if medians is None else cast(Roofline, medians)  # numbers all of them: a row has each or is null


def _joules(watts: Mapping[str, float | None], throughput: float) -> float | None:
    """Return those of an image, of all that is known; None where nothing is."""
    known = [value for value in watts.values() if value is not None]
    return sum(known) / throughput if known and throughput > 0 else None


def _load(loads: Sequence[Mapping[str, Any]]) -> Load:
    medians = _medians(loads) or {}
    times: dict[str, Any] = {name: medians[name] for name in ("import_s", "load_s", "first_run_s")}
    sizes = {name: _highest(load[name] for load in loads) for name in ("host_bytes", "device_bytes")}
    out: Load = {**times, **sizes}  # type: ignore[typeddict-item]
    return out


def _medians(rows: Sequence[Mapping[str, Any] | None]) -> dict[str, float | None] | None:
    """Return the median of each number over the rows; null where a row lacks it, and for no rows."""
    there = [row for row in rows if row is not None]
    if not there:
        return None
    out: dict[str, float | None] = {}
    for name in there[0]:
        values = [row[name] for row in there if row.get(name) is not None]
        out[name] = float(stdlib.median(values)) if values else None
    return out


def _highest(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
