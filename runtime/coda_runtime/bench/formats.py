"""Results in the formats that others read: github-action-benchmark's and pytest-benchmark's JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..io.counts import count
from .differences import cell_name
from .plan import AXES
from .results import Cell, Measurement, Results
from .statistics import outliers


def github_action_benchmark(results: Results) -> list[dict[str, Any]]:
    """Return what its tool `customSmallerIsBetter` takes: the median of each measurement, and its 95 % interval."""
    return [
        {
            "name": _name(cell, of),
            "unit": "ms",
            "value": 1e3 * of["latency_s"]["p50"],
            "range": f"{1e3 * of['latency_s']['ci95'][0]:.4g} to {1e3 * of['latency_s']['ci95'][1]:.4g}",
            "extra": (
                f"{of['throughput']:.4g} images/s, {count(of['repeats'], 'call')} in "
                f"{count(len(of['processes']), 'process', 'processes')}"
            ),
        }
        for cell, of in _all(results)
    ]


def pytest_benchmark(results: Results) -> dict[str, Any]:
    """Return what `pytest-benchmark compare` reads: a benchmark for each measurement, a round for each call."""
    cpu, machine = results.data["machine"]["cpu"], results.data["machine"]
    return {
        "machine_info": {
            "node": "",
            "processor": cpu["model"] or "",
            "machine": machine["platform"],
            "python_version": machine["python"],
            "cpu": {"brand_raw": cpu["model"] or "", "count": cpu["cores"]},
        },
        "commit_info": {"id": "unknown", "dirty": False},
        "benchmarks": [_benchmark(cell, of) for cell, of in _all(results)],
        "datetime": results.data["created"],
        "version": "5.1.0",
    }


FORMATS: Mapping[str, Callable[[Results], Any]] = {
    "github-action-benchmark": github_action_benchmark,
    "pytest-benchmark": pytest_benchmark,
}


def _all(results: Results) -> Iterator[tuple[Cell, Measurement]]:
    for cell in results.data["cells"]:
        for of in cell["measurements"]:
            yield cell, of


def _name(cell: Cell, of: Measurement) -> str:
    return f"{of['operation']}, {of['scenario']}, batch {of['batch']} ({cell_name(cell)})"


def _benchmark(cell: Cell, of: Measurement) -> dict[str, Any]:
    samples = np.asarray(of["latency_s"]["samples"])
    q1, q3 = (float(value) for value in np.percentile(samples, [25, 75]))
    far = outliers(samples)
    mean = float(samples.mean())
    return {
        "group": f"{of['operation']}, {of['scenario']}",
        "name": _name(cell, of),
        "fullname": _name(cell, of),
        "params": {"batch": of["batch"], **{axis: cell[axis] for axis in AXES}},  # type: ignore[literal-required]
        "param": cell_name(cell),
        "extra_info": {"throughput": of["throughput"], "processes": len(of["processes"])},
        "options": {"disable_gc": False, "timer": "perf_counter", "min_rounds": 1, "max_time": 0, "min_time": 0,
                    "warmup": True},
        "stats": {
            "min": float(samples.min()),
            "max": float(samples.max()),
            "mean": mean,
            "stddev": float(samples.std(ddof=1)) if len(samples) > 1 else 0.0,
            "rounds": len(samples),
            "median": float(np.median(samples)),
            "iqr": q3 - q1,
            "q1": q1,
            "q3": q3,
            "iqr_outliers": far,
            "stddev_outliers": 0,
            "outliers": f"0;{far}",
            "ld15iqr": float(samples.min()),
            "hd15iqr": float(samples.max()),
            "ops": 1 / mean if mean > 0 else 0.0,
            "total": float(samples.sum()),
            "iterations": 1,
            "data": samples.tolist(),
        },
    }  # fmt: skip
