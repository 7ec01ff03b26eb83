"""How cost grows: time and memory against the batch, the search against V and tokens, time against threads.

``python -m benchmarks.bench_curves BUNDLE [--only memory] [--json FILE]``. Candidates of one curve take turns. Peak
memory is that of a fresh process which loads the bundle and runs one call, as the kernel counts it (VmHWM).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import coda_runtime
from benchmarks.common import (
    Others,
    Run,
    in_fresh_process,
    interleaved,
    peak_memory,
    random_inputs,
    save,
    session_options,
)
from coda_runtime.format.parts import LATENT

BATCHES = (1, 2, 4, 8, 16, 32)
VOCABULARIES = (4096, 8192, 16384, 32768, 65536)
THREADS = (1, 2)


def peak(bundle: Path, operation: str, batch: int) -> tuple[float, float]:
    """Return this process's peak memory in MiB: after loading, and after one call."""
    with coda_runtime.load(bundle, device="cpu") as tokenizer:
        given = random_inputs(tokenizer.spec, batch)[operation]
        loaded = peak_memory()
        getattr(tokenizer, operation)(given)
        return loaded, peak_memory()


def memory(bundle: Path, batches: Sequence[int]) -> dict[str, Any]:
    """Measure the peaks of each operation and batch."""
    out: dict[str, Any] = {}
    print("\npeak memory of a fresh process, MiB: loaded, then after one call")
    for operation in ("encode", "decode"):
        found = {str(batch): in_fresh_process(peak, bundle, operation, batch) for batch in batches}
        out[operation] = {batch: {"loaded_mib": a, "peak_mib": b} for batch, (a, b) in found.items()}
        peaks = "".join(f"  B={batch}: {b:.0f}" for batch, (_, b) in found.items())
        print(f"  {operation}: {next(iter(found.values()))[0]:.0f};{peaks}", flush=True)
    return out


def batches(bundle: Path, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure the seconds per call, and per image."""
    out: dict[str, Any] = {}
    with coda_runtime.load(bundle, device="cpu") as tokenizer:
        for operation in ("encode", "decode"):
            call = getattr(tokenizer, operation)
            runs: dict[str, Run] = {str(b): partial(call, random_inputs(tokenizer.spec, b)[operation]) for b in sizes}
            found = interleaved(runs, repeats)
            out[operation] = {b: {"median_s": s, "s_per_image": s / int(b)} for b, s in found.items()}
            print(f"\n{operation}, ms an image")
            print("".join(f"  B={b}: {s / int(b) * 1e3:.1f}" for b, s in found.items()), flush=True)
    return out


def threads(bundle: Path, repeats: int) -> dict[str, Any]:
    """Measure both operations on one thread and on more, at batch 1 and 8."""
    tokenizers = {n: coda_runtime.load(bundle, device="cpu", threads=n) for n in THREADS}
    out: dict[str, Any] = {}
    print("\nthreads")
    for operation in ("encode", "decode"):
        for batch in (1, 8):
            given = random_inputs(tokenizers[THREADS[0]].spec, batch)[operation]
            runs: dict[str, Run] = {str(n): partial(getattr(t, operation), given) for n, t in tokenizers.items()}
            found = out[f"{operation}, batch {batch}"] = interleaved(runs, repeats)
            gain = found[str(THREADS[0])] / found[str(THREADS[-1])]
            shown = ", ".join(f"{n}: {seconds * 1e3:.1f} ms" for n, seconds in found.items())
            print(f"  {operation}, batch {batch}: {shown}; {gain:.2f} x", flush=True)
    for tokenizer in tokenizers.values():
        tokenizer.close()
    return out


def search(repeats: int) -> dict[str, Any]:
    """Measure the exported quantizer's seconds at both published schedules against V."""
    # Here, or PyTorch would count as the runtime's memory: a fresh process imports this module.
    import onnxruntime
    import torch

    from benchmarks.bench_quantizer import build
    from coda_deploy.tokenizer.variants import VARIANTS
    from coda_export.graphs import quantizer_graph

    out: dict[str, Any] = {}
    for variant, config in VARIANTS.items():
        runs: dict[str, Run] = {}
        latent = (0.3 * torch.randn(LATENT.shape(config.spec, 1))).numpy()
        for vocabulary in VOCABULARIES:
            _, folded = build(dataclasses.replace(config, vocab_size=vocabulary))
            session = onnxruntime.InferenceSession(
                quantizer_graph(folded).SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
            )
            runs[str(vocabulary)] = partial(session.run, None, {"latent": latent})
        found = out[variant] = {"tokens": config.num_tokens, "median_s": interleaved(runs, repeats)}
        print(f"\nquantizer, {config.num_tokens} tokens, ms (ns a token and code)")
        for vocabulary, seconds in found["median_s"].items():
            pair = seconds / config.num_tokens / int(vocabulary)
            print(f"  V={vocabulary}: {seconds * 1e3:.2f} ({pair * 1e9:.3f})", flush=True)
    return out


CURVES = ("batches", "memory", "threads", "search")


def main() -> None:
    """Measure the curves asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    others, results = Others(), {}
    if "batches" in args.only:
        results["batches"] = batches(args.bundle, args.batches, args.repeats)
    if "threads" in args.only:
        results["threads"] = threads(args.bundle, args.repeats)
    if "search" in args.only:
        results["search"] = search(args.repeats)
    busy = others.share()
    if "memory" in args.only:
        results["memory"] = memory(args.bundle, args.batches)
    print(f"\nother processes took {busy:.0%} of the machine while times were taken")
    save(args.json, {**results, "others_busy": busy})


if __name__ == "__main__":
    main()
