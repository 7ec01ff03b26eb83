"""Print the model's table: ``python -m benchmarks.kernel_model [--gpu NAME] [--against FILE] [--launches FILE]``.

Needs Triton, for its assembler, and no GPU. Every figure is the model's; ``--against`` sets it beside what was measured
(`benchmarks.gpu`'s rows of the fused kernel, or `benchmarks.bench_kernel`'s), ``--launches`` every kernel of a batch
(benchmarks/results/kernel-h100-launches.json).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_kernel import BATCHES, SPECS, known_gpu, search_bound
from benchmarks.kernel_model.assembly import Assembled, assemble
from benchmarks.kernel_model.gpus import CHIPS, Chip
from benchmarks.kernel_model.measured import Key, batches, chip_of, launch_rows, with_splits
from benchmarks.kernel_model.model import predict
from coda_export.kernels import DEFAULT_TARGET, compile_quantizer
from coda_runtime.backends.ptx import Plan, SearchTables, make_plan
from coda_runtime.backends.ptx.backend import BLOCKS_PER_MULTIPROCESSOR
from coda_runtime.format.spec import Spec

Codes = dict[str, Assembled]


class Compiled:
    """The kernels that ship, for one tokenizer; assembled for a GPU when that is first asked for."""

    def __init__(self, spec: Spec) -> None:
        tables = SearchTables(np.zeros((spec.vocab_size, spec.latent_channels + 1), np.float32))
        self.spec = spec
        self._ptx, self.kernels = compile_quantizer(spec, tables)[DEFAULT_TARGET]
        self._codes: dict[str, Codes] = {}

    def codes(self, chip: Chip) -> Codes:
        """Return the machine code of every kernel, by entry."""
        if chip.capability not in self._codes:
            modules = self.kernels.modules(self._ptx)
            with tempfile.TemporaryDirectory() as folder:
                self._codes[chip.capability] = {
                    entry: assemble(module, chip.capability, Path(folder)) for entry, module in modules.items()
                }
        return self._codes[chip.capability]

    def plan(self, batch: int, chip: Chip) -> Plan:
        """Return the plan that the runtime makes on that GPU."""
        codes, places = self.codes(chip), {}
        for it in self.kernels.of("screen"):
            places[it.entry] = chip.processors * codes[it.entry].blocks(chip.capability, it.warps, it.shared)
        programs = BLOCKS_PER_MULTIPROCESSOR * chip.processors
        return make_plan(self.kernels, self.spec, batch, programs=programs, places=places)


def floor_us(spec: Spec, batch: int, chip: Chip) -> float | None:
    """Return the float32 bound of the search, in microseconds; None for a GPU that bench_kernel does not know."""
    gpu = known_gpu(chip.name)
    return None if gpu is None else search_bound(spec, batch, gpu).seconds * 1e6


def table(made: dict[str, Compiled], chips: Sequence[Chip]) -> list[dict[str, Any]]:
    """Return a row for every tokenizer, GPU and batch."""
    rows: list[dict[str, Any]] = []
    for key, compiled in made.items():
        for chip in chips:
            for batch in BATCHES:
                found = predict(compiled.plan(batch, chip), compiled.codes(chip), chip)
                last = found.searches[-1]
                rows.append({
                    "shape": key, "gpu": chip.name, "batch": batch, "us": found.seconds * 1e6,
                    "nodes": len(found.launches), "search_us": sum(it.seconds for it in found.searches) * 1e6,
                    "floor_us": floor_us(compiled.spec, batch, chip), "last_fill": last.fill,
                    "last_waves": last.waves, "resident": last.resident,
                })  # fmt: skip
    return rows


def print_table(rows: list[dict[str, Any]], known: dict[Key, float]) -> None:
    """Print the rows, and beside them what was measured, and by how much the model is over or under."""
    print("a model's microseconds | nodes | searches | bound | times it | last scale: fill, waves, blocks | measured")
    for row in rows:
        row["measured_us"] = known.get((row["shape"], row["gpu"], row["batch"]), float("nan"))
        times = row["us"] / row["floor_us"] if row["floor_us"] else float("nan")
        print(
            f"{row['shape']:<5}{row['gpu']:<5}{row['batch']:>3}{row['us']:>9.0f}{row['nodes']:>5}"
            f"{row['search_us']:>9.0f}{row['floor_us'] or float('nan'):>9.0f}{times:>7.2f}"
            f"{row['last_fill']:>7.0%}{row['last_waves']:>7.2f}{row['resident']:>3}"
            + (f"{row['measured_us']:>9.0f}{row['us'] / row['measured_us'] - 1:>+7.0%}" if known else "")
        )


def print_launches(file: Path, made: dict[str, Compiled]) -> None:
    """Print what each function's launches were measured to take in a batch, all together, and what the model says."""
    print("measured and modelled microseconds of a batch, all launches of a function together")
    for device, shape, batch, measured in launch_rows(file):
        chip, compiled = chip_of(device), made.get(shape)
        if chip is None or compiled is None:
            continue
        plan = with_splits(compiled.plan(batch, chip), compiled.kernels, [grid for _, grid, _ in measured])
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for (name, _, us), (_, seconds) in zip(
            measured, predict(plan, compiled.codes(chip), chip).launches, strict=True
        ):
            for key in (name, "all"):
                sums[key][0] += us
                sums[key][1] += seconds * 1e6
        cells = (f"{name} {real:.0f} {model:.0f} {model / real - 1:+.0%}" for name, (real, model) in sums.items())
        print(f"{shape:<5}{chip.name:<5}{batch:>4}  " + " | ".join(cells))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [chip.name for chip in CHIPS]
    parser.add_argument("--gpu", nargs="*", choices=names, default=names)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    parser.add_argument("--launches", type=Path)
    args = parser.parse_args()
    known: dict[Key, float] = {}
    for file in args.against:
        known.update(batches(file))
    made = {key: Compiled(spec) for key, spec in SPECS.items()}
    rows = table(made, [chip for chip in CHIPS if chip.name in args.gpu])
    print_table(rows, known)
    if args.launches is not None:
        print_launches(args.launches, made)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
