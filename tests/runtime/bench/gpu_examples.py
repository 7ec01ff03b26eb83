"""A gpu.json as `python -m benchmarks.gpu run` writes it, of a GPU that does not exist: nothing here was measured."""

from __future__ import annotations

from typing import Any

CONTENDERS = (("onnxruntime", "fp32", 10.0), ("torch-eager", "fp32", 14.0), ("tensorrt", "bf16", 3.0))


def gpu_json(device: str = "A10", factor: float = 1.0, shapes: tuple[str, ...] = ("mar_v16384",)) -> dict[str, Any]:
    """What it would have sent in, as fast as `factor` says."""
    rows = []
    for shape in shapes:
        base = {"shape": shape, "parity": {"step_agreement": 1.0}}
        for contender, precision, ms in CONTENDERS:
            of = {**base, "contender": contender, "precision": precision}
            for batch in (1, 32):
                time = ms * batch**0.9 / factor
                rows += [
                    {**of, "operation": operation, "clock": clock, "batch": batch, **timing(time)}
                    for operation, clock in (("encode", "host"), ("decode", "host"), ("encoder", "device"))
                ]
        missing = {"contender": "tensorrt", "precision": "fp32", "operation": "encode", "clock": "host", "batch": 1}
        rows.append({**base, **missing, "reason": "made up"})
    return {
        "format": "coda-gpu",
        "format_version": 1,
        "coda_runtime": "0.1.0",
        "machine": {
            "date": "2026-01-01",
            "cpu": "made up",
            "cores": 4,
            "python": "3.12.3",
            "libraries": {"torch": "2.13.0"},
            "ceilings": {"fp32_flops": 5e13, "bf16_flops": 4e14, "bytes_per_second": 2e12},
            "device": f"Made-up {device}",
            "compute_capability": "8.6",
            "memory_gib": 22.0,
            "nvidia_smi_after_ceilings": {
                "driver_version": "1.0",
                "clocks.sm": "1500 MHz",
                "clocks.max.sm": "1695 MHz",
            },
        },
        "doctor": None,
        "settings": {"batches": [1, 32]},
        "shapes": {
            shape: {
                "bundle": {
                    "folder": shape,
                    "fingerprints": [f"codebook:{shape}"],
                    "spec": {"variant": shape, "image_size": 256},
                    "manifest_sha256": "c" * 64,
                },
                "images": {"count": 8, "source": "samples of the bundle", "sha256": "d" * 64},
            }
            for shape in shapes
        },
        "problems": {},
        "rows": rows,
    }


def timing(ms: float) -> dict[str, Any]:
    """Of forty calls."""
    return {
        "median_ms": ms,
        "p90_ms": None,
        "p90_upper_ms": 1.1 * ms,
        "p99_ms": None,
        "p99_upper_ms": None,
        "mean_ms": 1.01 * ms,
        "best_ms": 0.97 * ms,
        "max_ms": 1.2 * ms,
        "ci95_ms": [0.99 * ms, 1.02 * ms],
        "samples_ms": [ms, 0.97 * ms, 1.2 * ms],
        "outliers": 1,
        "repeats": 40,
        "first_ms": 50 * ms,
        "warmups": 11,
        "stable": True,
    }


def early(data: dict[str, Any]) -> dict[str, Any]:
    """The same as it was written before the file had a version: no more than medians and ends."""
    told = {"median_ms", "p99_ms", "best_ms", "repeats", "first_ms", "warmups", "stable", "reason", "parity"}
    key = {"shape", "contender", "precision", "operation", "clock", "batch"}
    rows = [{name: value for name, value in row.items() if name in told | key} for row in data["rows"]]
    for row in rows:
        if "median_ms" in row:
            row["p99_ms"] = 1.3 * row["median_ms"]  # of forty calls
    return {**{name: data[name] for name in ("machine", "settings", "problems")}, "rows": rows}
