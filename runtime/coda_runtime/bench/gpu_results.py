"""gpu.json of `python -m benchmarks.gpu run`: checked, and as results of `coda bench`, one for each shape.

Its layout is that of gpu.schema.json beside this file. What can be compared honestly is the public functions from
numpy to numpy (the clock "host"), which are what `coda bench` measures as single-stream. Left out: rows by the GPU's
clock and through DLPack, which time something else, and memory, which is that of all processes on the GPU. One process
measured each cell, so that nothing is ever concluded from its times. What did not run is told in the warnings, and is
no cell that fails: a library that was not there, or time that was over, is no regression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, cast

from ..errors import InputError
from ..io.counts import count
from ..io.json_fields import describe, shown
from .differences import cell_name
from .results import FORMAT as RESULTS_FORMAT
from .results import FORMAT_VERSION as RESULTS_VERSION
from .results import Cell, LoadedArtifact, Machine, Measurement, Operation, Results
from .schema import Violation, find_violation
from .statistics import KNOWN_FROM

FORMAT = "coda-gpu"
FORMAT_VERSION = 1
_KEY = ("shape", "contender", "precision", "operation", "clock", "batch")
_SAME: Mapping[tuple[str, str], Operation] = {("encode", "host"): "encode", ("decode", "host"): "decode"}
"""The operation of `coda bench` that does the same as an operation by a clock; no other has one."""
_UNKNOWN = "0" * 64  # the checksum of what an early file does not tell

Row = Mapping[str, Any]


def is_gpu_json(data: object) -> bool:
    """Return whether a document is, or is meant as, a gpu.json; those of before version 1 name no format."""
    if not isinstance(data, dict):
        return False
    return data.get("format") == FORMAT or ("format" not in data and bool({"machine", "rows"} & data.keys()))


def check_gpu_json(data: Any, source: str = "gpu.json") -> dict[str, Any]:
    """Return a gpu.json of any version as the present one. Raises InputError that names the first key that is wrong."""
    version = data.get("format_version") if isinstance(data, dict) and data.get("format") == FORMAT else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{source}: format_version is {version}, and this coda reads {FORMAT_VERSION} of {FORMAT}; "
            "it was written by a newer coda: upgrade coda-runtime"
        )
    if isinstance(data, dict) and "format" not in data:
        data = {**data, "format": FORMAT, "format_version": FORMAT_VERSION}
    wrong = find_violation(data, schema()) or next(_wrong_rows(data["rows"]), None)
    if wrong is not None:
        raise InputError(
            f"{source}: {wrong.where}: found {wrong.found}, expected {wrong.expected}; expected a gpu.json that "
            "`python -m benchmarks.gpu run` wrote: run it again, or correct the file"
        )
    found: dict[str, Any] = data
    return found


def from_gpu_json(data: Any, source: str = "gpu.json") -> list[Results]:
    """Return a gpu.json as results, one for each of its shapes. Raises InputError as `check_gpu_json`."""
    data = check_gpu_json(data, source)
    shapes = list(dict.fromkeys(row["shape"] for row in data["rows"]))
    if len(shapes) == 1:
        return [Results.check(_document(data, shapes[0]), source)]
    return [
        replace(Results.check(_document(data, shape), f"{source} ({shown(shape)})"), file=source) for shape in shapes
    ]


@cache
def schema() -> dict[str, Any]:
    """Read gpu.schema.json."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("gpu.schema.json").read_text(encoding="utf-8"))
    return found


def _wrong_rows(rows: Sequence[Row]) -> Iterator[Violation]:
    """Yield what a schema cannot say."""
    seen = set()
    for index, row in enumerate(rows):
        where, key = f"rows[{index}]", tuple(row[name] for name in _KEY)
        if key in seen:
            yield Violation(where, f"{', '.join(shown(str(value)) for value in key)} again", "each of them once")
        seen.add(key)
        if "reason" in row:
            continue
        for name in ("median_ms", "repeats"):
            if name not in row:
                yield Violation(f"{where}.{name}", "nothing", "the key to be present, or a reason")
        rising = [(name, row[name]) for name in ("best_ms", "median_ms", "p90_ms", "p99_ms", "max_ms") if row.get(name)]
        for (lower, less), (higher, more) in pairwise(rising):
            if more < less * (1 - 1e-9):
                yield Violation(f"{where}.{higher}", describe(more), f"no less than {lower}, {less}")


def _document(data: Mapping[str, Any], shape: str) -> dict[str, Any]:
    rows = [row for row in data["rows"] if row["shape"] == shape]
    whole = [row for row in rows if _operation(row) is not None]
    device = "cuda:0" if "compute_capability" in data["machine"] else "cpu"
    names = dict.fromkeys((row["contender"], row["precision"]) for row in whole)
    of_cells = [[row for row in whole if (row["contender"], row["precision"]) == name] for name in names]
    facts = data.get("shapes", {}).get(shape) or _unknown_work(shape)
    return {
        "format": RESULTS_FORMAT,
        "format_version": RESULTS_VERSION,
        "created": data["machine"]["date"],
        "command": ["python", "-m", "benchmarks.gpu", "run"],
        "coda_runtime": data.get("coda_runtime", "unknown"),
        "machine": data["machine"].get("host") or _machine(data["machine"]),
        "bundle": facts["bundle"],
        "images": facts["images"],
        "cells": [_cell(of, device) for of in of_cells if any("reason" not in row for row in of)],
        "noise": {
            "load_before": None,
            "load_during": None,
            "throttled": None,
            "warnings": list(_warnings(of_cells, device, len(rows) - len(whole))),
        },
    }


def _operation(row: Row) -> Operation | None:
    return _SAME.get((row["operation"], row["clock"]))


def _unknown_work(shape: str) -> dict[str, Any]:
    bundle = {
        "folder": shape,
        "fingerprints": [f"gpu.json:{shape}"],
        "spec": {"variant": shape},
        "manifest_sha256": _UNKNOWN,
    }
    return {"bundle": bundle, "images": {"count": 8, "source": "the shipped photographs", "sha256": _UNKNOWN}}


def _machine(told: Mapping[str, Any]) -> Machine:
    """Return what an early file tells of the machine."""
    smi = told.get("nvidia_smi_after_ceilings", {})
    memory = told.get("memory_gib")
    gpu = {
        "index": 0,
        "name": told["device"],
        "driver": smi.get("driver_version"),
        "memory_bytes": None if memory is None else int(memory * 2**30),
        "clock_mhz": _mhz(smi.get("clocks.sm")),
        "max_clock_mhz": _mhz(smi.get("clocks.max.sm")),
    }
    cpu = {"flags": None, "frequency_mhz": None, "governor": None, "max_frequency_mhz": None}
    found = {
        "cpu": {"model": told["cpu"] or None, "cores": told.get("cores", 1), **cpu},
        "memory_bytes": None,
        "platform": "unknown",
        "python": told.get("python", "unknown"),
        "libraries": told["libraries"],
        "gpus": [gpu] if "compute_capability" in told else [],
    }
    return cast(Machine, found)


def _mhz(text: str | None) -> float | None:
    found = re.match(r"[\d.]+", text or "")
    return float(found[0]) if found else None


def _cell(rows: Sequence[Row], device: str) -> Cell:
    contender, precision = rows[0]["contender"], rows[0]["precision"]
    loaded = next((row["about"] for row in rows if row.get("about")), contender)
    ran = {"part": "all", "file": loaded, "backend": contender, "device": device, "precision": precision}
    return {
        "backend": contender,
        "precision": precision,
        "device": device,
        "threads": None,
        "artifacts": [cast(LoadedArtifact, {**ran, "format": "unknown"})],
        "load": None,
        "problem": None,
        "measurements": [_measurement(row) for row in rows if "reason" not in row],
    }


def _measurement(row: Row) -> Measurement:
    def seconds(name: str, otherwise: Any = None) -> Any:
        value = row.get(f"{name}_ms")
        return otherwise if value is None else value / 1e3

    p50, count = row["median_ms"] / 1e3, row["repeats"]
    # An early file has a 99th percentile of however few calls.
    known = {f"p{q}": seconds(f"p{q}") if count >= enough else None for q, enough in KNOWN_FROM.items()}
    bounds = {f"p{q}_upper": seconds(f"p{q}_upper") for q in KNOWN_FROM}
    slowest = seconds("max", max(p50, seconds("p99", p50)))
    fastest = seconds("best", p50)
    low, high = (edge / 1e3 for edge in row.get("ci95_ms", (1e3 * fastest, 1e3 * slowest)))
    samples = [sample / 1e3 for sample in row.get("samples_ms", (row["median_ms"],))]
    found = {
        "operation": _operation(row),
        "scenario": "single-stream",
        "batch": row["batch"],
        "repeats": count,
        "warmup_runs": row.get("warmups", 0),
        "warm": row.get("stable", False),
        "processes": [
            {"count": count, "p50": p50, "parts_s": None, "max_rate": None}
            | {name: slowest if value is None else value for name, value in known.items()}
        ],
        "latency_s": {
            "count": count,
            "p50": p50,
            **known,
            **bounds,
            "mean": seconds("mean", p50),
            "min": fastest,
            "max": slowest,
            "ci95": [low, high],
            "samples": samples,
            **({"samples_thinned": True} if len(samples) < count else {}),
        },
        "throughput": row["batch"] / p50,
        "throughput_ci95": [row["batch"] / high, row["batch"] / low] if low > 0 else None,
        "outliers": row.get("outliers", 0),
        "peak_host_bytes": None,
        "peak_device_bytes": None,
        "parts_s": None,
        "server": None,
        "flops_share": None,
    }
    return cast(Measurement, found)


def _warnings(of_cells: Sequence[Sequence[Row]], device: str, left_out: int) -> Iterator[str]:
    if left_out:
        yield (
            f"{count(left_out, 'row')} of gpu.json by other clocks than the host's have no counterpart here and are "
            "left out"
        )
    if any("samples_ms" not in row and "reason" not in row for rows in of_cells for row in rows):
        yield (
            "the file tells no more than the median, the fastest call and, of however few calls, the 99th percentile: "
            "the median stands for the mean, and the 99th percentile for the slowest call"
        )
    for rows in of_cells:
        name, reasons = cell_name(_cell(rows, device)), dict[str, list[str]]()
        for row in rows:
            if "reason" in row:
                reasons.setdefault(row["reason"], []).append(f"{_operation(row)} at batch {row['batch']}")
        for reason, missing in reasons.items():
            what = name if len(missing) == len(rows) else f"{', '.join(missing)} on {name}"
            yield f"{what} did not run: {reason}"
