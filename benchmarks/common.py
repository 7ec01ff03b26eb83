"""Timing side by side: candidates in turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

Run = Callable[[], object]


def interleaved(candidates: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds of each candidate over ``repeats`` rounds of all of them, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(repeats + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def session_options() -> onnxruntime.SessionOptions:
    """As coda_runtime sets them: see its onnxruntime backend."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def machine() -> dict[str, Any]:
    """CPU, cores and library versions."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {name: version(name) for name in ("torch", "onnxruntime", "numpy", "onnx")}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def show(title: str, medians: Mapping[str, float], baseline: str) -> None:
    """Print a table: milliseconds, and how many times faster than the baseline."""
    print(f"\n{title}")
    for name, seconds in medians.items():
        print(f"  {name:<44}{seconds * 1e3:10.2f} ms {medians[baseline] / seconds:8.1f} x")


def save(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write results and the machine as JSON, where a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")
