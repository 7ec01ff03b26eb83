"""Times of one operation: by CUDA events where the work is on a GPU, or from call to result in host memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Run = Callable[[Any], Any]
_AT_LEAST, _AT_MOST = 5, 2000
_QUEUED = 8  # runs queued before waiting for the GPU, so that launching overlaps with running


@dataclass(frozen=True)
class Timing:
    """Milliseconds. ``first_ms`` is the very first run, with whatever is compiled then; ``warmups`` runs went untimed.

    ``stable`` says that the last two blocks of the warm-up differed by less than 2 %.
    """

    median_ms: float
    p99_ms: float
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
    """Warm up until stable, or for ``seconds`` at most, then repeat for ``seconds``. ``inputs`` take turns."""
    events = clock == "device" and torch.cuda.is_initialized()
    sample = by_events if events else by_wall
    first = by_wall(run, inputs, 1)[0]
    # The second run too may be a special one: engines record their CUDA graphs then.
    one = min(by_wall(run, inputs[1:] or inputs, 2))
    block = max(1, min(20, round(seconds * 1e3 / 8 / max(one, 1e-3))))
    begun, warmups, last, stable = time.perf_counter(), 3, float("inf"), False
    while not stable and time.perf_counter() - begun < seconds:
        median = statistics.median(sample(run, inputs, block))
        warmups += block
        stable, last = abs(median - last) < 0.02 * median, median
    values: list[float] = []
    begun = time.perf_counter()
    while len(values) < _AT_LEAST or (time.perf_counter() - begun < seconds and len(values) < _AT_MOST):
        values += sample(run, inputs, min(_QUEUED, block))
    found = np.asarray(values)
    return Timing(
        float(np.median(found)),
        float(np.percentile(found, 99)),
        float(found.min()),
        len(values),
        first,
        warmups,
        stable,
    )
