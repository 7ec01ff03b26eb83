from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from coda_runtime.bench.callers import concurrent, with_knee
from coda_runtime.bench.results import CallersPoint


def test_callers_share_what_there_is() -> None:
    """Two calls at a time, of 5 ms each: throughput doubles from one caller to two, and latency from two to four."""
    with ThreadPoolExecutor(2) as places:
        found = concurrent(lambda number: places.submit(time.sleep, 0.005).result(), 3, 0.2, (1, 2, 4))
    assert found.concurrency is not None
    one, two, four = found.concurrency["points"]
    assert [point["callers"] for point in (one, two, four)] == [1, 2, 4]
    assert 1.4 < two["throughput"] / one["throughput"] < 2.6
    assert 0.7 < four["throughput"] / two["throughput"] < 1.4
    assert 1.5 < four["p50"] / two["p50"] < 3
    assert found.concurrency["knee"] == 2
    assert len(found.samples) == two["count"]
    assert found.images_per_sample == 3


def test_callers_take_different_inputs() -> None:
    seen: list[int] = []
    concurrent(seen.append, 1, 0.001, (3,))
    assert {0, 1, 2, 3, 4} <= set(seen)


def test_what_a_call_raises_ends_all_callers() -> None:
    def run(number: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("full")

    before = threading.active_count()
    with pytest.raises(MemoryError, match="full"):
        concurrent(run, 1, 30.0, (4,))
    assert threading.active_count() == before


def test_the_knee_is_where_power_is_highest() -> None:
    def point(callers: int, throughput: float, p50: float) -> CallersPoint:
        return {"callers": callers, "count": 10, "throughput": throughput, "p50": p50, "p99": p50}

    points = [point(1, 10, 0.1), point(2, 19, 0.105), point(4, 36, 0.111), point(8, 40, 0.2), point(16, 40, 0.4)]
    assert with_knee(points)["knee"] == 4
