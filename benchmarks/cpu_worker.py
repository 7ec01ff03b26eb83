"""One pipeline of `bench_cpu` in a process of its own, so that its memory goes with it.

``python -m benchmarks.cpu_worker SHAPE PIPELINE WORK [--batch 1] [--calls 3] [--keep FILE]`` ends its output with one
line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cpu_pipelines as peers
from benchmarks.common import Others, peak_memory
from coda_deploy.reference import TorchReference
from coda_runtime.bench.steady import reference_seconds
from coda_runtime.bench.timing import measure

PAUSE = 0.05  # seconds before each call, in which threads of the one before stop spinning


class Given:
    """What every pipeline is given, and what the unfolded float32 tokenizer makes of it; kept in the shape's folder."""

    def __init__(self, shape: peers.Shape) -> None:
        file = shape.work / f"given-{shape.batch}.npz"
        if not file.exists():
            reference, images = TorchReference(shape.tokenizer), shape.images[: shape.batch]
            latent = reference.latent(images)
            ids = reference.encode(latent)
            np.savez(file, images=images, latent=latent, ids=ids, decoded=reference.decode(ids))
        with np.load(file) as arrays:
            self.images, self.latent, self.ids, self.decoded = (
                arrays[name] for name in ("images", "latent", "ids", "decoded")
            )


def _ignoring(call: Callable[[], Any], _: int) -> object:
    return call()


def run(shape: peers.Shape, name: str, calls: int, keep: Path | None) -> dict[str, Any]:
    """Return the seconds of each call, and what else went on; raises whatever the pipeline does."""
    given = Given(shape)
    begun = time.perf_counter()
    with contextlib.contextmanager(peers.PIPELINES[name])(shape) as pipeline:
        operations: dict[str, Callable[[], Any]] = {
            "encode": partial(pipeline.encode, given.images),
            "decode": partial(pipeline.decode, given.ids),
        }
        answers = {operation: call() for operation, call in operations.items()}
        ready = time.perf_counter() - begun
        if keep is not None:
            np.savez(keep, allow_pickle=False, **answers)
        before, others = reference_seconds(), Others()
        seconds: dict[str, list[float]] = {operation: [] for operation in operations}
        for _ in range(calls):
            for operation, call in operations.items():
                time.sleep(PAUSE)
                seconds[operation] += measure(partial(_ignoring, call), 0, repeats=1)
        busy = others.share()
        after = reference_seconds()
    return {
        **{f"{operation}_s": found for operation, found in seconds.items()},
        "ready_s": ready,
        "reference_s": [before, after],
        "others": busy,
        "peak_mib": peak_memory(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("pipeline", choices=peers.PIPELINES)
    parser.add_argument("work", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="write the answers of the first calls to this .npz file")
    args = parser.parse_args()
    found = run(peers.Shape(args.shape, args.batch, args.work), args.pipeline, args.calls, args.keep)
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main()
