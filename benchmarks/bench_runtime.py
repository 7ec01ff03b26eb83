"""What the runtime costs beyond the engine: encode and decode against the raw sessions, and import time.

``python -m benchmarks.bench_runtime BUNDLE``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import coda_runtime
from benchmarks.common import interleaved, save, session_options


def import_seconds(module: str, repeats: int) -> float:
    """Median seconds that ``import module`` takes in a fresh interpreter that has imported numpy already."""
    code = f"import numpy, time; s = time.perf_counter(); import {module}; print(time.perf_counter() - s)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(repeats)]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    """Print overheads at batch 1 and the import time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with coda_runtime.load(args.bundle, device="cpu") as tokenizer:
        files = {artifact.part: args.bundle / artifact.file for artifact in tokenizer.artifacts}
        raw = {
            part: onnxruntime.InferenceSession(files[part], session_options(), providers=["CPUExecutionProvider"])
            for part in ("encoder", "quantizer", "decoder")
        }
        size = tokenizer.spec.image_size
        image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
        ids = tokenizer.encode(image)

        def raw_encode() -> object:
            latent = raw["encoder"].run(None, {"image": image})[0]
            return raw["quantizer"].run(None, {"latent": latent})[0]

        medians = interleaved(
            {
                "encode, raw sessions": raw_encode,
                "encode, coda_runtime": lambda: tokenizer.encode(image),
                "decode, raw session": lambda: raw["decoder"].run(None, {"ids": ids}),
                "decode, coda_runtime": lambda: tokenizer.decode(ids),
            },
            args.repeats,
        )
    for name, seconds in medians.items():
        print(f"  {name:<28}{seconds * 1e3:10.3f} ms")
    overheads = {
        "encode": medians["encode, coda_runtime"] / medians["encode, raw sessions"] - 1,
        "decode": medians["decode, coda_runtime"] / medians["decode, raw session"] - 1,
    }
    print(f"  overhead: encode {overheads['encode']:+.2%}, decode {overheads['decode']:+.2%}")
    imported = import_seconds("coda_runtime", 9)
    print(f"  import coda_runtime: {imported * 1e3:.1f} ms over numpy")
    save(args.json, {"median_s": medians, "overhead": overheads, "import_s": imported})


if __name__ == "__main__":
    main()
