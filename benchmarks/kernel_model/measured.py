"""What was measured of the kernels, read back to be set beside the model: whole batches, and each launch of one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.kernel_model.gpus import CHIPS, Chip
from coda_runtime.backends.ptx import KernelSet, Launch, Plan

Key = tuple[str, str, int]
"""Shape, GPU and batch."""


def chip_of(device: str) -> Chip | None:
    """Return the GPU that a driver calls so; None where the model has none of that name."""
    return next((chip for chip in CHIPS if chip.name in device), None)


def batches(file: Path) -> dict[Key, float]:
    """Return microseconds of a batch in a file of `benchmarks.gpu` (the kernels' own rows) or of bench_kernel."""
    data = json.loads(file.read_text(encoding="utf-8"))
    return {
        (shape, chip.name, batch): seconds * 1e6
        for device, shape, batch, seconds in _rows(data)
        if (chip := chip_of(device)) is not None
    }


def _rows(data: Any) -> Iterator[tuple[str, str, int, float]]:
    for shape, found in data.get("measured", {}).items():
        for batch, row in found.items():
            if batch != "gpu":
                yield found["gpu"], shape, int(batch), row["median_s"]
    for row in data.get("rows", ()):
        if row["operation"] == "quantizer" and row["contender"] == "cuda-sm80" and "median_ms" in row:
            yield data["machine"]["device"], row["shape"].split("_")[0], row["batch"], row["median_ms"] / 1e3


def launch_rows(file: Path) -> Iterator[tuple[str, str, int, list[tuple[str, list[int], float]]]]:
    """Yield device, shape, batch and (function, grid, microseconds) of each launch, of the rows that have them."""
    data = json.loads(file.read_text(encoding="utf-8"))
    for row in data["rows"]:
        if row["per"] is not None:
            yield data["gpu"], row["shape"], row["batch"], [(name, grid, us) for name, grid, us in row["per"]]


def with_splits(plan: Plan, kernels: KernelSet, grids: list[list[int]]) -> Plan:
    """Return the plan with the table shared as it was when the grids were measured."""
    launches, splits = [], 1
    for launch, grid in zip(plan.launches, grids, strict=True):
        if launch.kernel.function == "screen":
            splits = grid[1]
            launches.append(_shared(launch, splits))
        elif launch.kernel.function == "settle":
            fitting = [it for it in kernels.of("settle") if it.sizes["SPLITS"] >= splits]
            narrow = min(fitting, key=lambda it: it.sizes["SPLITS"])
            launches.append(_shared(dataclasses.replace(launch, kernel=narrow), splits, launch.grid[1]))
        else:
            launches.append(launch)
    return dataclasses.replace(plan, launches=tuple(launches))


def _shared(launch: Launch, splits: int, blocks: int | None = None) -> Launch:
    chunks = -(-launch.kernel.sizes["CODES"] // launch.kernel.sizes["STEP"] // splits)
    new = {"splits": splits, "chunks": chunks}
    arguments = (
        new.get(name, value) for (name, _), value in zip(launch.kernel.arguments, launch.arguments, strict=True)
    )
    grid = (launch.grid[0], splits if blocks is None else blocks, 1)
    return dataclasses.replace(launch, grid=grid, arguments=tuple(arguments))
