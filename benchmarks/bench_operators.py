"""Where the time of a bundle's encoder and decoder goes, operator by operator, by onnxruntime's own profiler.

``python -m benchmarks.bench_operators BUNDLE [--precision int8] [--parts encoder decoder] [--rounds 5] [--json FILE]``:
float32, or another precision, on the CPU provider, batch 1, with random input; and how fast the part computes beside a
large float32 product of matrices by NumPy.
"""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from benchmarks.common import random_inputs, save, session_options
from coda_runtime.bench.roofline import peak_flops
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.parts import DECODER, ENCODER, PARTS
from coda_runtime.format.precision import FP32

PART_OF = {"encode": ENCODER, "decode": DECODER}
"""The part that takes each operation's input."""
OPERATION_OF = {part.name: operation for operation, part in PART_OF.items()}


def operators(path: Path, feed: dict[str, NDArray[Any]], rounds: int) -> dict[str, float]:
    """Measure the seconds per run in each operator's kernels, longest first."""
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


def show_operators(title: str, found: dict[str, float], rate: str = "") -> None:
    """Print the ten operators that take longest."""
    total = sum(found.values())
    print(f"\n{title}: {total * 1e3:.1f} ms in kernels{rate}")
    for operator, seconds in list(found.items())[:10]:
        print(f"  {operator:24s}{seconds * 1e3:10.1f} ms {seconds / total:6.1%}")


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default=FP32)
    parser.add_argument("--parts", nargs="+", choices=OPERATION_OF, default=list(OPERATION_OF))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    flops = bundle.manifest.provenance.get("flops", {})
    ceiling = peak_flops()
    results: dict[str, Any] = {"matrix_product_flops": ceiling}
    print(f"a large matrix product: {ceiling / 1e9:.0f} Gflop/s")
    given = random_inputs(bundle.spec, 1)
    for part in args.parts:
        operation, name = OPERATION_OF[part], PARTS[part].input.name
        artifacts = bundle.manifest.find(part, format="onnx", precision=args.precision)
        if not artifacts:
            parser.error(f"{args.bundle} has {', '.join(bundle.manifest.precisions)}, not {args.precision}")
        file = bundle.path(artifacts[0])
        found = operators(file, {name: given[operation]}, args.rounds)
        results[part] = found
        total = sum(found.values())
        show_operators(part, found, f", {flops[part] / total / 1e9:.0f} Gflop/s" if part in flops else "")
    save(args.json, results)


if __name__ == "__main__":
    main()
