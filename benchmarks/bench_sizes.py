"""What a size costs: ``bounds`` by the roofline of GPUs, ``measure`` on this CPU, memory and time a part.

    python -m benchmarks.bench_sizes bounds
    python -m benchmarks.bench_sizes measure BUNDLE ... --json sizes.json

``bounds`` gives tokens and schedule of each size, the operations of each part for one image, and the least time on each
GPU at its published peaks: bf16 for encoder and decoder, float32 for the search. ``measure`` runs each part of a bundle
in a process of its own at batch 1: the median of some runs after the first, and the growth of peak memory with loading.
Make the bundles with ``coda export TOKENIZER --image-size SIZE --out BUNDLE``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import coda_runtime
from benchmarks.bench_kernel import GPUS, Gpu, search_bound
from benchmarks.common import in_fresh_process, peak_memory
from benchmarks.gpu.prepare import minimal_work
from benchmarks.gpu.shapes import SHAPES, make_tokenizer
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.parts import DECODER, ENCODER, IDS, PARTS, QUANTIZER, Part
from coda_runtime.format.sizes import parse_size, scales_text, shape_text, size_text
from coda_runtime.format.spec import Spec

SIZES = ("256", "192x320", "512")
BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}
"""Dense products of bf16 with float32 sums a second, as NVIDIA's data sheets have them, by a GPU's word in GPUS."""


def bound_ms(spec: Spec, part: Part, work: dict[str, dict[str, float]], batch: int, gpu: Gpu) -> float:
    """Return the larger of operations over peak and bytes over bandwidth; bytes of ends and parameters once."""
    if part is QUANTIZER:
        return search_bound(spec, batch, gpu).seconds * 1e3
    ends = sum(math.prod(end.shape(spec, batch)) * end.dtype.itemsize for end in (part.input, part.output))
    moved = (ends + 2 * work[part.name]["parameters"]) / gpu.bandwidth
    return max(batch * work[part.name]["flops"] / BF16_FLOPS[gpu.word], moved) * 1e3


def bounds(shape: str, sizes: list[str], batches: list[int]) -> list[dict[str, Any]]:
    """Print and return a row for each size, batch and GPU."""
    tokenizer, rows = make_tokenizer(shape), []
    for size in map(parse_size, sizes):
        sized = tokenizer.at_size(size)
        spec, work = sized.spec, minimal_work(sized)
        flops = {part.name: work[part.name]["flops"] / 1e9 for part in (ENCODER, DECODER)}
        flops[QUANTIZER.name] = 2 * spec.num_tokens * spec.vocab_size * spec.latent_channels / 1e9
        print(f"{shape} {shape_text(size)}: {spec.num_tokens} tokens, scales {scales_text(spec.scales)}")
        print("  GFLOP an image  " + ", ".join(f"{name} {flops[name]:.1f}" for name in PARTS))
        for gpu in GPUS:
            for batch in batches:
                times = {name: bound_ms(spec, part, work, batch, gpu) for name, part in PARTS.items()}
                told = ", ".join(f"{name} {value:.3f}" for name, value in times.items())
                print(f"  ms at batch {batch:<3}  {gpu.name:<18}{told}")
                rows.append({"shape": shape, "size": size_text(size), "gpu": gpu.name, "batch": batch, "ms": times})
    return rows


def run_part(bundle: str, name: str, repeats: int, threads: int | None) -> tuple[float, float]:
    """Return the seconds of a run, the median, and the MiB by which loading and running raise the peak."""
    spec = Bundle.open(bundle).spec
    before, draw = peak_memory(), np.random.default_rng(0)
    with coda_runtime.load(bundle, device="cpu", threads=threads) as tok:
        takes = PARTS[name].input
        shape, high = takes.shape(spec, 1), spec.vocab_size if takes is IDS else 256
        given = draw.integers(0, high, shape).astype(takes.dtype) if takes.dtype.kind != "f" else None
        batch = draw.standard_normal(shape, np.float32) if given is None else given
        tok.run_parts(batch, name)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            tok.run_parts(batch, name)
            times.append(time.perf_counter() - start)
    return statistics.median(times), peak_memory() - before


def measure(bundle: str, repeats: int, threads: int | None) -> list[dict[str, Any]]:
    """Print and return a row for each part. All are loaded in every process: memory is that of one part at work."""
    spec, rows = Bundle.open(bundle).spec, []
    print(f"{bundle}: {shape_text(spec.image_size)}, {spec.num_tokens} tokens of {spec.vocab_size}")
    for name in PARTS:
        seconds, memory = in_fresh_process(run_part, bundle, name, repeats, threads, timeout=3600)
        print(f"  {name:<10}{seconds * 1e3:>10.1f} ms{memory:>10.0f} MiB")
        rows.append({"bundle": bundle, "part": name, "ms": seconds * 1e3, "mib": memory})
    return rows


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(required=True, dest="way")
    bound = ways.add_parser("bounds")
    bound.add_argument("--shapes", nargs="*", default=["sample", "mar_v16384", "flux_v65536"], choices=SHAPES)
    bound.add_argument("--sizes", nargs="*", default=list(SIZES), metavar="SIZE")
    bound.add_argument("--batches", nargs="*", type=int, default=[1, 32])
    measured = ways.add_parser("measure")
    measured.add_argument("bundles", nargs="+", metavar="BUNDLE")
    measured.add_argument("--repeats", type=int, default=5)
    measured.add_argument("--threads", type=int)
    for way in (bound, measured):
        way.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.way == "bounds":
        rows = [row for shape in args.shapes for row in bounds(shape, args.sizes, args.batches)]
    else:
        rows = [row for bundle in args.bundles for row in measure(bundle, args.repeats, args.threads)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
