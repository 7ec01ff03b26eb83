"""What the runtime costs beyond the engine: encode and decode against the raw sessions, and import time.

``python -m benchmarks.bench_runtime BUNDLE``. The overhead is taken two ways, each as a median with a 95 % confidence
interval. In one call of the runtime: the time outside the engine's ``run`` over the time inside, which does not depend
on how busy the machine is, and by which the targets are judged. And by turns with raw sessions, as the ratio in each
round: a cross-check that would see an engine that runs slower inside the runtime, and is as noisy as the machine.
Batches beyond what the runtime gives the engine at once are compared with raw sessions that are given the same chunks,
and with raw sessions that are given the whole batch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import coda_runtime
from benchmarks.common import Others, Ratio, Run, interleaved_times, medians, paired_ratio, save, session_options
from coda_runtime.format.parts import IMAGE, OPERATIONS, PARTS

MAX_OVERHEAD = {1: 0.03, 32: 0.01}
"""The overhead that is allowed, by batch size."""
RUNTIME, RAW, RAW_WHOLE = "coda_runtime", "raw sessions", "raw sessions, whole batch"

Array = NDArray[Any]


def import_seconds(module: str, repeats: int) -> float:
    """Return the median seconds of ``import module`` in a fresh interpreter that has imported numpy already."""
    code = f"import numpy, time; s = time.perf_counter(); import {module}; print(time.perf_counter() - s)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(repeats)]
    return statistics.median(float(run.stdout) for run in runs)


def verdict(ratio: Ratio, limit: float) -> str:
    """Say whether the interval lies under the overhead allowed, over it, or on both sides."""
    if ratio.high - 1 < limit:
        return "met"
    return "NOT MET" if ratio.low - 1 > limit else "open: the interval holds the target"


class RawSessions:
    """onnxruntime's sessions on a bundle's files, with the options that the runtime sets."""

    def __init__(self, tokenizer: coda_runtime.Tokenizer) -> None:
        files = {artifact.part: tokenizer.folder / artifact.file for artifact in tokenizer.artifacts}
        self._sessions = {
            part: onnxruntime.InferenceSession(file, session_options(), providers=["CPUExecutionProvider"])
            for part, file in files.items()
        }

    def encode(self, image: Array) -> Array:
        """Encode through two sessions."""
        return self._run("encode", image)

    def decode(self, ids: Array) -> Array:
        """Decode through one."""
        return self._run("decode", ids)

    def _run(self, operation: str, value: Array) -> Array:
        for part in OPERATIONS[operation]:
            value = self._sessions[part].run(None, {PARTS[part].input.name: value})[0]
        return np.asarray(value)


class SessionClock:
    """Seconds inside onnxruntime's ``InferenceSession.run``, of every session, while the context is open."""

    def __enter__(self) -> SessionClock:
        self.seconds = 0.0
        self._run = run = onnxruntime.InferenceSession.run

        def timed(session: onnxruntime.InferenceSession, *args: Any) -> Any:
            start = time.perf_counter()
            try:
                return run(session, *args)
            finally:
                self.seconds += time.perf_counter() - start

        onnxruntime.InferenceSession.run = timed
        return self

    def __exit__(self, *_: object) -> None:
        onnxruntime.InferenceSession.run = self._run


def own_times(run: Run, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each call of ``run``, and those of them that its engines took."""
    whole, in_sessions = [], []
    run()
    for _ in range(rounds):
        with SessionClock() as clock:
            start = time.perf_counter()
            run()
            whole.append(time.perf_counter() - start)
        in_sessions.append(clock.seconds)
    return whole, in_sessions


def run_in_chunks(run: Callable[[Array], Array], batch: Array, size: int) -> Array:
    """Run a batch cut as the runtime cuts it."""
    if len(batch) <= size:
        return run(batch)
    return np.concatenate([run(batch[start : start + size]) for start in range(0, len(batch), size)])


def overhead(tokenizer: coda_runtime.Tokenizer, raw: RawSessions, batch: int, rounds: int) -> dict[str, Any]:
    """Measure both operations at one batch size."""
    limit = MAX_OVERHEAD.get(batch)
    images = np.random.default_rng(0).integers(0, 256, IMAGE.shape(tokenizer.spec, batch), np.uint8)
    given: dict[str, Array] = {"encode": images, "decode": tokenizer.encode(images)}
    out: dict[str, Any] = {"rounds": rounds, "images_per_run": tokenizer.images_per_run}
    for operation, array in given.items():
        direct = getattr(raw, operation)
        runs: dict[str, Run] = {
            RAW: partial(run_in_chunks, direct, array, tokenizer.images_per_run),
            RUNTIME: partial(getattr(tokenizer, operation), array),
        }
        if batch > tokenizer.images_per_run:
            runs[RAW_WHOLE] = partial(direct, array)
        times = interleaved_times(runs, rounds)
        ratio = paired_ratio(times[RUNTIME], times[RAW])
        own = paired_ratio(*own_times(runs[RUNTIME], rounds))
        found: dict[str, Any] = {
            "median_s": medians(times),
            "overhead": {k: v - 1 for k, v in asdict(own).items()},
            "overhead_by_turns": {k: v - 1 for k, v in asdict(ratio).items()},
        }
        line = f"  {operation}, batch {batch}: {found['median_s'][RUNTIME] * 1e3:.2f} ms, overhead "
        line += f"{own.median - 1:+.2%} ({own.low - 1:+.2%} to {own.high - 1:+.2%})"
        line += f", by turns {ratio.median - 1:+.2%} ({ratio.low - 1:+.2%} to {ratio.high - 1:+.2%})"
        if limit is not None:
            found |= {"target": limit, "verdict": verdict(own, limit)}
            line += f", target under {limit:.0%}: {found['verdict']}"
        if RAW_WHOLE in times:
            whole = paired_ratio(times[RUNTIME], times[RAW_WHOLE])
            found["overhead_whole_batch"] = {k: v - 1 for k, v in asdict(whole).items()}
            line += f"; against the whole batch in one run {whole.median - 1:+.1%}"
        print(line, flush=True)
        out[operation] = found
    return out


def main() -> None:
    """Print overheads and the import time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=200, help="at batch 1; larger batches take fewer, at least 15")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    others, results = Others(), {}
    with coda_runtime.load(args.bundle, device="cpu") as tokenizer:
        raw = RawSessions(tokenizer)
        for batch in args.batches:
            results[str(batch)] = overhead(tokenizer, raw, batch, max(min(15, args.rounds), args.rounds // batch))
    busy = others.share()
    imported = import_seconds("coda_runtime", 9)
    print(f"  import coda_runtime: {imported * 1e3:.1f} ms over numpy; other processes took {busy:.0%} of the machine")
    save(args.json, {"batches": results, "import_s": imported, "others_busy": busy})


if __name__ == "__main__":
    main()
