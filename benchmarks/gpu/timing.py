"""Times of one operation: by CUDA events where the work is on a GPU, or from call to result in host memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from coda_runtime.bench import timing
from coda_runtime.bench.statistics import KNOWN_FROM, median_ci, outliers, percentile, upper_bound

Run = Callable[[Any], Any]
_MIN_SAMPLES, _MAX_SAMPLES = 5, 2000
_KEPT = 20  # samples of a row in the file: a whole run has hundreds of rows
_QUEUED = 8  # runs queued before waiting for the GPU, so that launching overlaps with running


@dataclass(frozen=True)
class Timing:
    """Milliseconds. ``first_ms`` is the very first run, with whatever is compiled then; ``warmups`` runs went untimed.

    A percentile is None where ``repeats`` are too few to know it, its upper bound where they are too few to bound it
    (statistics.KNOWN_FROM). ``ci95_ms`` is that of the median, ``samples_ms`` are some of them, evenly in time.
    ``stable`` says that the last two blocks of the warm-up differed by less than 2 %.
    """

    median_ms: float
    p90_ms: float | None
    p90_upper_ms: float | None
    p99_ms: float | None
    p99_upper_ms: float | None
    mean_ms: float
    best_ms: float
    max_ms: float
    ci95_ms: tuple[float, float]
    samples_ms: list[float]
    outliers: int
    repeats: int
    first_ms: float
    warmups: int
    stable: bool


def by_events(run: Run, inputs: Sequence[Any], count: int) -> list[float]:
    """Milliseconds of ``count`` runs between CUDA events on PyTorch's stream, which waits for a run's result."""
    pairs = []
    for index in range(count):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(inputs[index % len(inputs)])
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in pairs]


def by_wall(run: Run, inputs: Sequence[Any], count: int) -> list[float]:
    """Milliseconds of ``count`` runs, each until its result is there."""
    out = []
    for index in range(count):
        start = time.perf_counter()
        run(inputs[index % len(inputs)])
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        out.append((time.perf_counter() - start) * 1e3)
    return out


def measure(run: Run, inputs: Sequence[Any], clock: str, seconds: float) -> Timing:
    """Warm up until stable, or for ``seconds`` at most, then repeat for ``seconds``. ``inputs`` take turns.

    Warm-up and host times are those of ``coda bench``; only a device's times, by events, are taken here.
    """

    def call(number: int) -> None:
        run(inputs[number % len(inputs)])
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    (first,) = timing.measure(call, 0.0, repeats=1)
    warmed = timing.warm_up(call, seconds)
    if clock == "device" and torch.cuda.is_initialized():
        values = list[float]()
        begun = time.perf_counter()
        while len(values) < _MIN_SAMPLES or (time.perf_counter() - begun < seconds and len(values) < _MAX_SAMPLES):
            values += by_events(run, inputs, _QUEUED)
    else:
        values = [1e3 * sample for sample in timing.measure(call, seconds, repeats=_MIN_SAMPLES)]
    known = {q: percentile(values, q) if len(values) >= enough else None for q, enough in KNOWN_FROM.items()}
    return Timing(
        median_ms=percentile(values, 50),
        p90_ms=known[90],
        p90_upper_ms=upper_bound(values, 90),
        p99_ms=known[99],
        p99_upper_ms=upper_bound(values, 99),
        mean_ms=statistics.fmean(values),
        best_ms=min(values),
        max_ms=max(values),
        ci95_ms=median_ci(values),
        samples_ms=_thinned(values),
        outliers=outliers(values),
        repeats=len(values),
        first_ms=1e3 * first,
        warmups=1 + warmed.runs,
        stable=warmed.warm,
    )


def _thinned(values: Sequence[float]) -> list[float]:
    """The few of them that a file keeps of each row, to six digits."""
    count = min(len(values), _KEPT)
    chosen = [values[round(index * (len(values) - 1) / max(1, count - 1))] for index in range(count)]
    return [float(f"{value:.6g}") for value in chosen]
