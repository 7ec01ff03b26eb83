"""Results as `coda bench run` would write them, with plausible numbers: nothing here was measured.

`python -m tests.runtime.bench.examples OUT.html [BUSY]` writes their report, to look at.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

from coda_runtime.bench.callers import with_knee
from coda_runtime.bench.report import write_report
from coda_runtime.bench.results import (
    CallersPoint,
    Cell,
    Concurrency,
    Document,
    Measurement,
    Operation,
    Results,
    Scenario,
    Server,
    ServerPoint,
    Span,
    Timeline,
)
from coda_runtime.bench.summary import summarise

BATCHES = (1, 4, 8, 32)
# Milliseconds of a batch of one and of each further image.
COSTS = {
    ("onnxruntime", "fp32", "cpu", 2): (30.0, 22.0),
    ("openvino", "bf16", "cpu", 2): (14.0, 9.0),
    ("tensorrt", "fp16", "cuda:0", None): (1.4, 0.31),
}
SHARES = {"encode": 1.0, "quantise": 0.12, "decode": 1.3, "round-trip": 2.3}


def measurement(
    operation: Operation,
    scenario: Scenario,
    batch: int,
    seconds: float,
    random: np.random.Generator,
    n: int = 9,
    *,
    copies: bool = False,
) -> Measurement:
    """Of `n` samples from each of seven processes, which differ by 0.6 %; `copies` to and from a GPU."""
    messages = []
    for factor in random.lognormal(0, 0.006, 7):
        samples = factor * seconds * random.lognormal(0, 0.01, n)
        samples[n // 2] *= 1.9
        parts = None
        if scenario == "single-stream" and operation in ("encode", "round-trip"):
            weights = {"encoder": 0.82, "quantizer": 0.11, "decoder": 0.0, "runtime": 0.07}
            if operation == "round-trip":
                weights = {"encoder": 0.36, "quantizer": 0.05, "decoder": 0.55, "runtime": 0.04}
            parts = {part: factor * seconds * weight for part, weight in weights.items() if weight}
        shares = {"host_to_device": 0.08, "compute": 0.93, "device_to_host": 0.02}
        transfers = {name: factor * seconds * share for name, share in shares.items()} if copies and parts else None
        messages.append(
            {
                "operation": operation,
                "scenario": scenario,
                "batch": batch,
                "warmup_runs": 12,
                "warm": True,
                "samples": samples.tolist(),
                "images_per_sample": batch,
                "peak_host_bytes": int(4.2e8 + 6e6 * batch),
                "peak_device_bytes": None,
                "parts_s": parts,
                "transfers_s": transfers,
                "timeline": timeline(parts) if parts else None,
                "server": server(batch / (factor * seconds), seconds, scenario),
                "concurrency": callers(batch, factor * seconds) if scenario == "concurrent" else None,
                "flops_share": None,
            }
        )
    return summarise(messages)


def timeline(parts: dict[str, float]) -> Timeline:
    """A call of a file: read, decoded and resized, then each part, with the runtime between them."""
    gap = parts["runtime"] / (len(parts) + 3)
    steps = {"read file": gap / 3, "decode file": gap, "resize": gap / 2}
    steps |= {part: seconds for part, seconds in parts.items() if part != "runtime"}
    spans: list[Span] = []
    now = gap / 6
    for name, seconds in steps.items():
        spans.append({"name": name, "start_s": now, "seconds": seconds})
        now += seconds + gap / 6
    return {"seconds": now, "spans": spans}


def callers(batch: int, seconds: float) -> Concurrency:
    """Two processors: two callers get twice as much, and more of them wait."""
    points: list[CallersPoint] = [
        {
            "callers": count,
            "count": 300 * count,
            "throughput": batch * min(count, 2) / seconds * (0.97 if count > 2 else 1),
            "p50": seconds * max(1.03, count / 2),
            "p99": seconds * max(1.3, count / 1.4),
        }
        for count in (1, 2, 4, 8)
    ]
    return with_knee(points)


def server(capacity: float, seconds: float, scenario: Scenario) -> Server | None:
    """What arrives at a share of what can be done, up to more than that where the rates are given."""
    if scenario not in ("server", "offered"):
        return None
    given = scenario == "offered"
    loads = (0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
    bound = 6 * seconds
    curve: list[ServerPoint] = [
        {
            "rate": capacity * load,
            "count": int(1000 * load),
            "p50": seconds * (1 + 0.5 * load / (1 - load)),
            "p99": seconds * (1 + 2.2 * load / (1 - load)),
            "achieved": capacity * load * (1 if load < 0.95 else 0.94),
        }
        for load in loads
    ]
    best = max(point["rate"] for point in curve if point["p99"] <= bound)
    return {
        "latency_bound_s": None if given else bound,
        "offered_rate": best,
        "achieved_rate": best,
        "max_rate": None if given else best,
        "queue_p99_s": seconds,
        "curve": curve,
    }


def cell(key: tuple[str, str, str, int | None], random: np.random.Generator, factor: float = 1.0) -> Cell:
    backend, precision, device, threads = key
    first, further = COSTS[key]
    gpu = device != "cpu"
    kind = "tensorrt" if backend == "tensorrt" else "onnx"
    found: Cell = {
        "backend": backend,
        "precision": precision,
        "device": device,
        "threads": threads,
        "artifacts": [
            {
                "part": part,
                "file": f"{part}.{precision}.{kind}",
                "backend": backend,
                "device": device,
                "precision": precision,
                "format": kind,
            }
            for part in ("encoder", "quantizer", "decoder")
        ],
        "load": {
            "import_s": 0.31 if gpu else 0.12,
            "load_s": 1.9 if gpu else 0.64,
            "first_run_s": first / 1e3 * (9 if gpu else 1.8),
            "host_bytes": int(3.1e8),
            "device_bytes": int(7.4e8) if gpu else None,
        },
        "problem": None,
        "measurements": [],
    }
    operations: tuple[Operation, ...] = ("encode", "decode", "round-trip")
    for operation in operations:
        share = SHARES[operation] * factor / 1e3
        for batch in BATCHES:
            seconds = share * (first + further * (batch - 1))
            of = measurement(operation, "single-stream", batch, seconds, random, copies=gpu)
            if gpu:
                of["peak_device_bytes"] = int(8e8 + 2.4e7 * batch)
                of["flops_share"] = round(0.48 * batch / (batch + 4), 3)
            else:
                of["roofline"] = {
                    "flops": 2.3e9 * batch,
                    "min_bytes": 2.1e7 + 2.5e5 * batch,
                    "peak_flops": 1.5e12,
                    "peak_bytes": 2.1e10,
                }
            found["measurements"].append(of)
        seconds = share * (first + further * 31)
        found["measurements"].append(measurement(operation, "offline", 32, seconds, random, 6))
    found["measurements"].append(measurement("encode", "server", 8, factor / 1e3 * (first + further * 7), random, 150))
    return found


def with_loads(found: Cell, factor: float) -> Cell:
    """The same, and rates that were given, and callers at a time."""
    first, further = COSTS[found["backend"], found["precision"], found["device"], found["threads"]]
    random = np.random.default_rng(11)
    seconds = factor / 1e3 * (first + further * 7)
    found["measurements"].append(measurement("encode", "offered", 8, seconds, random, 150))
    found["measurements"].append(measurement("encode", "concurrent", 1, factor / 1e3 * first, random, 150))
    return found


def document(*, seed: int = 0, factor: float = 1.0, busy: bool = False, loads: bool = False) -> Document:
    """One that may be changed."""
    made: Document = json.loads(_document(seed, factor, busy=busy, loads=loads))
    return made


@cache
def _document(seed: int, factor: float, *, busy: bool, loads: bool) -> str:
    """Made once, since summing it all up takes a third of a second."""
    random = np.random.default_rng(seed)
    cells = [cell(key, random, factor) for key in COSTS]
    if loads:
        cells = [with_loads(found, factor) for found in cells]
    cells.append(
        {
            "backend": "tensorrt-rtx",
            "precision": "fp16",
            "device": "cuda:0",
            "threads": None,
            "artifacts": [],
            "load": None,
            "problem": 'tensorrt-rtx is not installed; install it: pip install "tensorrt-rtx>=1.7"',
            "measurements": [],
        }
    )
    if busy:
        cells[0]["measurements"][2]["warm"] = False
    warnings = [
        "the machine was busy: other processes used 37 % of the CPU",
        "encode at batch 8 on onnxruntime, fp32, cpu did not warm up",
    ]
    made: Document = {
        "format": "coda-bench",
        "format_version": 2,
        "created": "2026-11-22T08:00:00Z",
        "command": ["coda", "bench", "run", "bundle", "--batch", "1,4,8,32", "--out", "results.json"],
        "coda_runtime": "0.1.0",
        "machine": {
            "cpu": {
                "model": "Example Processor 9000",
                "cores": 8,
                "flags": ["avx2", "avx512f", "amx_bf16"],
                "frequency_mhz": 2901.2,
                "governor": None,
                "max_frequency_mhz": 3800.0,
            },
            "memory_bytes": 33_554_432_000,
            "platform": "Linux-6.8-x86_64-with-glibc2.39",
            "python": "3.11.9",
            "libraries": {"numpy": "2.4.6", "onnxruntime": "1.31.1"},
            "gpus": [
                {
                    "index": 0,
                    "name": "Example GPU",
                    "driver": "580.10",
                    "memory_bytes": 24_000_000_000,
                    "clock_mhz": 210.0,
                    "max_clock_mhz": 2520.0,
                }
            ],
        },
        "bundle": {
            "folder": "bundle",
            "fingerprints": ["codebook:" + "a" * 64, "quantizer:" + "b" * 64],
            "spec": {"variant": "example", "image_size": 256, "vocab_size": 16384, "num_tokens": 680},
            "manifest_sha256": "c" * 64,
        },
        "images": {"count": 32, "source": "photos", "sha256": "d" * 64},
        "cells": cells,
        "noise": {
            "load_before": 0.37 if busy else 0.01,
            "load_during": 0.2 if busy else 0.02,
            "throttled": None,
            "warnings": warnings if busy else [],
        },
    }
    return json.dumps(made)


def results(**changes: object) -> Results:
    return Results.check(document(**changes), "results.json")  # type: ignore[arg-type]


if __name__ == "__main__":
    write_report([results(busy=len(sys.argv) > 2, loads=True)], Path(sys.argv[1]))
