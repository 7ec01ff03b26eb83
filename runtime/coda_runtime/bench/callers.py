"""Concurrent callers: so many threads, each of which calls again as soon as it has its answer (a closed loop)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from .results import CallersPoint, Concurrency
from .scenarios import Measured
from .statistics import percentile
from .timing import Clock, Run, warm_up

_FEWEST = 10  # calls of each caller


def concurrent(
    run: Run, batch: int, seconds: float, callers: Sequence[int], *, clock: Clock = time.perf_counter
) -> Measured:
    """Measure each number of callers for `seconds`, or `_FEWEST` calls of each caller; a sample is a call.

    The samples are those of the knee.
    """
    warmed = warm_up(run, seconds, clock=clock)
    points: list[CallersPoint] = []
    samples: dict[int, list[float]] = {}
    for count in callers:
        begun = clock()
        found = _call(run, count, seconds, clock)
        samples[count] = found
        points.append(
            {
                "callers": count,
                "count": len(found),
                "throughput": batch * len(found) / max(clock() - begun, 1e-9),
                "p50": percentile(found, 50),
                "p99": percentile(found, 99),
            }
        )
    found_knee = with_knee(points)
    return Measured(warmed, samples[found_knee["knee"]], batch, concurrency=found_knee)


def with_knee(points: Sequence[CallersPoint]) -> Concurrency:
    """Return the points with their knee: where throughput over median latency is highest (Kleinrock's power, 1979).

    Callers take no time from each other until the processors are full; from there on throughput stays, and latency
    grows with their number.
    """
    knee = max(points, key=lambda point: point["throughput"] / max(point["p50"], 1e-9))["callers"]
    return {"knee": knee, "points": list(points)}


def _call(run: Run, callers: int, seconds: float, clock: Clock) -> list[float]:
    """Return the seconds of each call of all callers, in the order in which they ended. Raises what a call raised."""
    samples: list[float] = []
    errors: list[BaseException] = []
    start = threading.Barrier(callers)

    def work(first: int) -> None:
        try:
            start.wait()
            end, number = clock() + seconds, first
            while (clock() < end or number - first < _FEWEST) and not errors:
                before = clock()
                run(number)
                samples.append(clock() - before)
                number += 1
        except BaseException as error:  # told by the thread that asked
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return samples
