"""Print the model's table: ``python -m benchmarks.kernel_model [--json FILE] [--against gpu-*.json]``.

Needs Triton, for its assembler, and no GPU. Every figure is the model's; ``--against`` sets it beside what was measured
(`benchmarks.gpu`'s rows of the fused kernel).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_kernel import BATCHES, SPECS, known_gpu, search_bound
from benchmarks.kernel_model.assembly import Assembled, assemble
from benchmarks.kernel_model.gpus import CHIPS, Chip
from benchmarks.kernel_model.model import Prediction, predict
from coda_export.kernels import DEFAULT_TARGET, compile_quantizer
from coda_runtime.backends.ptx import KernelSet, SearchTables, make_plan
from coda_runtime.backends.ptx.backend import BLOCKS_PER_MULTIPROCESSOR
from coda_runtime.format.spec import Spec

Compiled = tuple[bytes, KernelSet]
SEARCHES = ("search", "screen")


def compile_for(spec: Spec) -> Compiled:
    """Compile the kernels that ship."""
    tables = SearchTables(np.zeros((spec.vocab_size, spec.latent_channels + 1), np.float32))
    return compile_quantizer(spec, tables)[DEFAULT_TARGET]


def assembled(made: Compiled, capability: str) -> dict[str, Assembled]:
    """Assemble the searches for a GPU."""
    ptx, kernels = made
    modules = kernels.modules(ptx)
    with tempfile.TemporaryDirectory() as folder:
        return {
            it.entry: assemble(modules[it.entry], capability, Path(folder))
            for it in kernels.kernels
            if it.function in SEARCHES
        }


def model(spec: Spec, made: Compiled, codes: dict[str, Assembled], batch: int, chip: Chip) -> Prediction:
    """Model a batch by the plan that the runtime makes on that GPU."""
    programs = BLOCKS_PER_MULTIPROCESSOR * chip.processors
    places = {
        it.entry: chip.processors * codes[it.entry].blocks(chip.capability, it.warps, it.shared)
        for it in made[1].kernels
        if it.function == "screen"
    }
    return predict(make_plan(made[1], spec, batch, programs=programs, places=places), codes, chip)


def floor_us(spec: Spec, batch: int, chip: Chip) -> float | None:
    """Return the float32 bound of the search, in microseconds; None for a GPU that bench_kernel does not know."""
    gpu = known_gpu(chip.name)
    return None if gpu is None else search_bound(spec, batch, gpu).seconds * 1e6


def table() -> list[dict[str, Any]]:
    """Return a row for every tokenizer, GPU and batch."""
    rows: list[dict[str, Any]] = []
    for key, spec in SPECS.items():
        made = compile_for(spec)
        code = {capability: assembled(made, capability) for capability in {chip.capability for chip in CHIPS}}
        for chip in CHIPS:
            for batch in BATCHES:
                found = model(spec, made, code[chip.capability], batch, chip)
                floor, last = floor_us(spec, batch, chip), found.searches[-1]
                rows.append({
                    "shape": key, "gpu": chip.name, "batch": batch, "us": found.seconds * 1e6, "nodes": found.nodes,
                    "search_us": sum(it.seconds for it in found.searches) * 1e6, "floor_us": floor,
                    "last_fill": last.fill, "last_waves": last.waves, "resident": last.resident,
                })  # fmt: skip
    return rows


def measured(file: Path) -> dict[tuple[str, str, int], float]:
    """Return milliseconds of the fused kernel in a `gpu.json`, by shape, GPU and batch."""
    data = json.loads(file.read_text(encoding="utf-8"))
    name = next((chip.name for chip in CHIPS if chip.name in data["machine"]["device"]), "")
    return {
        (row["shape"].split("_")[0], name, row["batch"]): row["median_ms"]
        for row in data["rows"]
        if row["operation"] == "quantizer" and row["contender"] == "cuda-sm80" and "median_ms" in row
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    known: dict[tuple[str, str, int], float] = {}
    for file in args.against:
        known.update(measured(file))
    rows = table()
    print("a model's microseconds | nodes | searches | bound | times it | last scale: fill, waves, blocks | measured")
    for row in rows:
        row["measured_us"] = 1e3 * known.get((row["shape"], row["gpu"], row["batch"]), float("nan"))
        times = row["us"] / row["floor_us"] if row["floor_us"] else float("nan")
        print(
            f"{row['shape']:<5}{row['gpu']:<5}{row['batch']:>3}{row['us']:>9.0f}{row['nodes']:>5}"
            f"{row['search_us']:>9.0f}{row['floor_us'] or float('nan'):>9.0f}{times:>7.2f}"
            f"{row['last_fill']:>7.0%}{row['last_waves']:>7.2f}{row['resident']:>3}"
            + (f"{row['measured_us']:>9.0f}{row['us'] / row['measured_us'] - 1:>+7.0%}" if known else "")
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
