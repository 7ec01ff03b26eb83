from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coda_runtime.bench.callers import concurrent, with_knee
from coda_runtime.bench.results import CallersPoint
from coda_runtime.bench.summary import summarise


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


def point(callers: int, throughput: float, p50: float) -> CallersPoint:
    return {"callers": callers, "count": 10, "throughput": throughput, "p50": p50, "p99": p50}


def test_the_knee_is_where_power_is_highest() -> None:
    points = [point(1, 10, 0.1), point(2, 19, 0.105), point(4, 36, 0.111), point(8, 40, 0.2), point(16, 40, 0.4)]
    assert with_knee(points)["knee"] == 4


def test_the_samples_of_all_processes_are_of_one_number_of_callers() -> None:
    def message(*p50s: float) -> dict[str, Any]:
        points = [point(callers, 10.0 * callers, p50) for callers, p50 in zip((1, 2), p50s, strict=True)]
        found = with_knee(points)
        p50 = next(of["p50"] for of in points if of["callers"] == found["knee"])
        return {
            **{"operation": "decode", "scenario": "concurrent", "batch": 1, "warmup_runs": 6, "warm": True},
            **{"samples": [p50] * 20, "images_per_sample": 1, "server": None, "parts_s": None},
            **{"peak_host_bytes": None, "peak_device_bytes": None, "concurrency": found},
        }

    of = summarise([message(0.1, 0.19), message(0.1, 0.19), message(0.1, 0.21)])
    assert of["concurrency"] is not None
    assert of["concurrency"]["knee"] == 2
    assert (of["latency_s"]["p50"], of["latency_s"]["count"], of["latency_s"]["min"]) == (0.19, 40, 0.19)
    assert [len(process["callers"] or ()) for process in of["processes"]] == [2, 2, 2]
