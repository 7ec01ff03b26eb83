"""Times of one operation: by CUDA events where the work is on a GPU, or from call to result in host memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from coda_runtime.bench import timing
from coda_runtime.bench.statistics import KNOWN_FROM, percentile, upper_bound

Run = Callable[[Any], Any]
_MIN_SAMPLES, _MAX_SAMPLES = 5, 2000
_QUEUED = 8  # runs queued before waiting for the GPU, so that launching overlaps with running


@dataclass(frozen=True)
class Timing:
    """Milliseconds. ``first_ms`` is the very first run, with whatever is compiled then; ``warmups`` runs went untimed.

    ``p99_ms`` is None where ``repeats`` are too few to know it, ``p99_upper_ms`` where they are too few to bound it.
    ``stable`` says that the last two blocks of the warm-up differed by less than 2 %.
    """

    median_ms: float
    p99_ms: float | None
    p99_upper_ms: float | None
    best_ms: float
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
    return Timing(
        percentile(values, 50),
        percentile(values, 99) if len(values) >= KNOWN_FROM[99] else None,
        upper_bound(values, 99),
        min(values),
        len(values),
        1e3 * first,
        1 + warmed.runs,
        warmed.warm,
    )
