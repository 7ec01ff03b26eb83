from __future__ import annotations

import heapq
from itertools import pairwise

import numpy as np
import pytest

from coda_runtime.bench import scenarios
from coda_runtime.bench.scenarios import Measured, arrive, ask, offered, server
from coda_runtime.bench.statistics import percentile
from tests.runtime.bench.fakes import FakeTime


def search(time: FakeTime, batch: int, seconds: float, bound_s: float) -> Measured:
    return server(time.serve, batch, seconds, bound_s, clock=time.clock, sleep=time.sleep)


def test_a_single_stream_counts_calls_and_offline_passes() -> None:
    time = FakeTime()
    single = scenarios.single_stream(time.run(lambda n: 0.5), 4, 3.0, clock=time.clock)
    assert (single.samples, single.images_per_sample) == ([0.5] * 10, 4)
    offline = scenarios.offline(time.run(lambda n: 2.0), 64, 3.0, clock=time.clock)
    assert (offline.samples, offline.images_per_sample) == ([2.0] * scenarios.OFFLINE_REPEATS, 64)


def test_arrivals_are_poisson_seeded_and_scale_with_the_rate() -> None:
    times = arrive(50.0, 100.0)
    assert len(times) == 5000
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    gaps = np.diff(times) * 50
    assert gaps.mean() == pytest.approx(1)
    assert np.diff(arrive(15.0, 2.0)).mean() == pytest.approx(1 / 15), "of few, too"
    assert abs(gaps.std() - 1) < 0.05, "exponential gaps: as wide as their mean"
    np.testing.assert_allclose(arrive(100.0, 50.0) * 2, times)
    assert len(arrive(0.001, 1.0)) == 1
    assert len(arrive(6.0, 1.0)) == 20, "stretched, for a few requests"
    assert arrive(6.0, 1.0)[-1] < 2 * scenarios.STRETCH


def test_the_worker_takes_what_waits_up_to_the_batch() -> None:
    time = FakeTime(each=0.0, call=1.0)
    probe = ask(time.serve, 4, 20.0, 5.0, 1e9, clock=time.clock, sleep=time.sleep)
    assert time.served[0] == (0, 1), "the first comes alone"
    assert [start for start, _ in time.served[1:]] == [stop for _, stop in time.served[:-1]]
    assert time.served[-1][1] == 100
    assert {stop - start for start, stop in time.served[1:-1]} == {4}
    assert probe.held
    assert probe.achieved == pytest.approx(100 / 26)


def test_latency_is_from_arrival_to_done() -> None:
    time = FakeTime(each=0.3)
    probe = ask(time.serve, 1, 2.0, 50.0, 1e9, clock=time.clock, sleep=time.sleep)
    free, expected = 0.0, []
    for arrival in arrive(2.0, 50.0):
        free = max(free, arrival) + 0.3
        expected.append(free - arrival)
    assert probe.latencies == pytest.approx(expected)
    assert [latency - wait for latency, wait in zip(probe.latencies, probe.waits, strict=True)] == pytest.approx(
        [0.3] * 100
    )
    assert time.slept > 0


@pytest.mark.parametrize("batch", [1, 8])
def test_with_a_wide_bound_the_search_finds_the_capacity(batch: int) -> None:
    time = FakeTime(each=0.01, call=0.02)
    found = search(time, batch, 60.0, 5.0)
    capacity = batch / (0.02 + 0.01 * batch)
    assert found.server is not None
    assert 0.9 * capacity < found.server["max_rate"] < 1.1 * capacity
    assert found.server["achieved_rate"] == pytest.approx(found.server["max_rate"], rel=0.1)
    assert found.images_per_sample == 1


def test_the_rate_that_was_found_holds_and_the_next_one_does_not() -> None:
    time = FakeTime(each=0.05)
    found = search(time, 1, 200.0, 0.3)
    assert found.server is not None
    best = found.server["max_rate"]
    assert 0 < best < 20
    assert percentile(found.samples, 99) <= 0.3
    curve = found.server["curve"]
    assert all((point["p99"] <= 0.3) == (point["rate"] <= best) for point in curve)
    assert min(point["rate"] for point in curve if point["rate"] > best) <= best * 1.06
    assert [point["rate"] for point in curve] == sorted(point["rate"] for point in curve)
    # The same, by a queue with one server that was written another way.
    arrivals = heapq.nsmallest(10**6, arrive(best, 200.0).tolist())
    done = [arrivals[0] + 0.05]
    for _, arrival in pairwise(arrivals):
        done.append(max(arrival, done[-1]) + 0.05)
    late = [end - arrival for end, arrival in zip(done, arrivals, strict=True)]
    assert found.server["queue_p99_s"] == pytest.approx(percentile(late, 99) - 0.05)


def test_a_bound_under_the_time_of_one_call_is_given_up_at_once() -> None:
    time = FakeTime(each=10.0)
    found = search(time, 1, 3.0, 0.5)
    assert found.server is not None
    assert found.server["max_rate"] is None
    assert len(found.server["curve"]) == 1
    assert found.samples


@pytest.mark.parametrize("each", [5e-3, 0.03, 4.0])
@pytest.mark.parametrize("bound", [1e-3, 0.1, 12.0])
def test_its_duration_is_bounded(each: float, bound: float) -> None:
    time = FakeTime(each=each)
    search(time, 4, 3.0, bound)
    calls = 12 * each * 4  # the warm-up's
    # A probe may end with a queue to work off: no longer than the arrivals at one and a half times the capacity took.
    assert time.now - 100 < 3.0 + calls + scenarios.PROBES * (
        2 * scenarios.STRETCH * max(3.0, scenarios.BOUNDS * bound) + 4 * each
    )


def test_a_server_that_stands_still_once_shows_in_all_that_came_meanwhile() -> None:
    """Who asks again only after the answer would see one slow call of some thousand (coordinated omission)."""
    time = FakeTime(each=0.001)

    def serve(start: int, stop: int) -> None:
        if start <= 500 < stop:
            time.now += 1.0
        time.serve(start, stop)

    found = offered(serve, 1, 10.0, [100.0], clock=time.clock, sleep=time.sleep)
    assert found.server is not None
    (point,) = found.server["curve"]
    assert point["count"] == 1000
    assert point["max"] == pytest.approx(1.0, abs=0.1)
    late = [latency for latency in found.samples if latency > 0.1]
    assert 70 <= len(late) <= 120, "a second's requests, less what was worked off"
    assert percentile(found.samples, 99) > 0.8
    assert percentile(found.samples, 50) < 0.01
    assert found.server["max_rate"] is None


def test_rates_are_offered_whether_they_are_served_or_not() -> None:
    time = FakeTime(each=0.01)
    found = offered(time.serve, 1, 5.0, [300.0, 50.0], clock=time.clock, sleep=time.sleep)
    assert found.server is not None
    slow, fast = found.server["curve"]
    assert (slow["rate"], fast["rate"]) == (50.0, 300.0)
    assert slow["achieved"] == pytest.approx(50, rel=0.1)
    assert fast["achieved"] == pytest.approx(100, rel=0.1)
    assert fast["p99"] > 5
    assert len(found.samples) == 250, "those of the last rate"
