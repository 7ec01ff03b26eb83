"""How onnxruntime's threads should wait between operators: asleep, busily, or busily until the run ends.

``python -m benchmarks.bench_spinning BUNDLE [--rounds 20] [--json FILE]``. The sessions of a bundle one after another,
image to image, by one caller and by four at once. `SPINNING` of coda_runtime's onnxruntime backend comes from here.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import coda_runtime
from benchmarks.common import interleaved_times, save
from benchmarks.gpu.shapes import images
from coda_runtime.backends.onnxruntime.backend import SPINNING
from coda_runtime.format.parts import PARTS
from coda_runtime.format.precision import FP32

OURS = "busy until the run ends (ours)"
WAYS = {
    "asleep": {"session.intra_op.allow_spinning": "0"},
    "busy (onnxruntime's default)": {},
    OURS: SPINNING,
}
PAUSE = 0.05  # seconds, in which busy threads of the way before give up


class Pipeline:
    """The sessions of a bundle's float32 parts, opened one way."""

    def __init__(self, bundle: Path, entries: dict[str, str]) -> None:
        self.sessions = []
        for part in PARTS.values():
            options = onnxruntime.SessionOptions()
            for entry, value in entries.items():
                options.add_session_config_entry(entry, value)
            path = bundle / f"{part.name}.{part.precision_in(FP32)}.onnx"
            self.sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    def run(self, batch: NDArray[np.uint8]) -> None:
        """Turn images into ids and back."""
        values: NDArray[Any] = batch
        for session in self.sessions:
            values = session.run(None, {session.get_inputs()[0].name: values})[0]

    def run_at_once(self, batch: NDArray[np.uint8], callers: int) -> None:
        """Do the same by many threads."""
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(lambda _: self.run(batch), range(callers)))


def main() -> None:
    """Measure one bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with coda_runtime.load(args.bundle) as tok:
        batch = images(tok.spec.image_size)[:1]
    pipelines = {name: Pipeline(args.bundle, entries) for name, entries in WAYS.items()}
    results: dict[str, Any] = {"rounds": args.rounds}
    for callers in (1, args.callers):
        runs = {name: partial(pipeline.run_at_once, batch, callers) for name, pipeline in pipelines.items()}
        times = interleaved_times(runs, args.rounds, pause=PAUSE)
        print(f"\nround trip, batch 1, callers: {callers}")
        results[f"{callers} callers"] = times
        for name, seconds in times.items():
            ratio = statistics.median(own / asleep for own, asleep in zip(seconds, times["asleep"], strict=True))
            print(f"  {name:32s} {statistics.median(seconds) * 1e3:9.1f} ms   {ratio:5.2f} of asleep")
    save(args.json, results)


if __name__ == "__main__":
    main()
