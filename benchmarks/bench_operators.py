"""Where the time of a bundle's encoder and decoder goes, operator by operator, by onnxruntime's own profiler.

``python -m benchmarks.bench_operators BUNDLE [--parts encoder decoder] [--rounds 5] [--json FILE]``: float32 on the CPU
provider, batch 1, with random input; and how fast the part computes beside a large matrix product by NumPy.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.common import machine, save, session_options
from coda_runtime.bench.roofline import peak_flops
from coda_runtime.bundle import Bundle
from coda_runtime.manifest import Spec

PARTS = ("encoder", "decoder")


def random_input(part: str, spec: Spec) -> dict[str, NDArray[Any]]:
    """One image or row of ids. Time does not depend on them."""
    random = np.random.default_rng(0)
    if part == "encoder":
        return {"image": random.integers(0, 256, (1, spec.image_size, spec.image_size, 3), np.uint8)}
    return {"ids": random.integers(0, spec.vocab_size, (1, spec.num_tokens), np.int32)}


def operators(path: Path, feed: dict[str, NDArray[Any]], rounds: int) -> dict[str, float]:
    """Seconds a run in each operator's kernels, longest first."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(rounds):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"]
    return {name: microseconds / 1e6 / rounds for name, microseconds in found.most_common()}


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    flops = bundle.manifest.provenance.get("flops", {})
    ceiling = peak_flops()
    results: dict[str, Any] = {"machine": machine(), "matrix_product_flops": ceiling}
    print(f"a large matrix product: {ceiling / 1e9:.0f} Gflop/s")
    for part in args.parts:
        found = operators(args.bundle / f"{part}.fp32.onnx", random_input(part, bundle.spec), args.rounds)
        results[part] = found
        total = sum(found.values())
        rate = f", {flops[part] / total / 1e9:.0f} Gflop/s" if part in flops else ""
        print(f"\n{part}: {total * 1e3:.1f} ms in kernels{rate}")
        for name, seconds in list(found.items())[:10]:
            print(f"  {name:24s}{seconds * 1e3:10.1f} ms {seconds / total:6.1%}")
    save(args.json, results)


if __name__ == "__main__":
    main()
