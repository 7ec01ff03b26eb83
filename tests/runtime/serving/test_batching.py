from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coda_runtime.errors import BackendError, ClosedError
from coda_runtime.serving.batching import Batcher, BatchReport, QueueFullError, Run

Rows = NDArray[Any]
LIMIT = 60.0
FOREVER = 3600.0


@contextmanager
def batcher(*runs: Run, **settings: Any) -> Iterator[Batcher]:
    defaults = {"max_batch": 4, "max_delay": 0.0, "max_waiting": 1000}
    out = Batcher(runs, **(defaults | settings))
    try:
        yield out
    finally:
        out.close(drain=False)


def double(model: str, rows: Rows) -> Rows:
    return rows.astype(np.int64) * (2 if model == "encode" else 3)


class Held:
    """A run that waits until it is let go, and tells which batches it got."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.go, self._entered = threading.Event(), threading.Semaphore(0)

    def __call__(self, model: str, rows: Rows) -> Rows:
        self.batches.append((model, rows[:, 0].tolist()))
        self._entered.release()
        assert self.go.wait(LIMIT)
        return double(model, rows)

    def wait_entered(self) -> None:
        assert self._entered.acquire(timeout=LIMIT)


def column(*values: int) -> Rows:
    return np.array(values, np.int32)[:, None]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["encode", "decode"]), st.integers(1, 11), st.integers(1, 3)), max_size=25),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.001]),
)
def test_each_request_gets_the_results_of_its_own_rows(
    requests: list[tuple[str, int, int]], max_batch: int, workers: int, delay: float
) -> None:
    reports: list[BatchReport] = []
    shapes: set[tuple[int, ...]] = set()

    def run(model: str, rows: Rows) -> Rows:
        shapes.add(rows.shape[1:])
        return double(model, rows)

    runs = [run] * workers
    with batcher(*runs, max_batch=max_batch, max_delay=delay, observe=reports.append) as queue:

        def ask(number: int) -> bool:
            model, count, width = requests[number]
            rows = np.random.default_rng(number).integers(0, 1000, (count, width), np.int32)
            return bool((queue.submit(model, rows).future.result(LIMIT) == double(model, rows)).all())

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, range(len(requests))))
        assert queue.waiting == 0
        queue.close()
    assert sum(report.rows for report in reports) == sum(count for _, count, _ in requests)
    assert all(1 <= report.rows <= max_batch for report in reports)
    assert sum(len(report.queue_seconds) for report in reports) == len(requests)
    assert shapes == {(width,) for _, _, width in requests}


def test_what_waits_while_a_device_is_busy_becomes_one_batch() -> None:
    held = Held()
    with batcher(held, max_delay=0.0) as queue:
        first = queue.submit("encode", column(0))
        held.wait_entered()
        others = [queue.submit("encode", column(number)) for number in (1, 2, 3)]
        assert queue.waiting == 3
        held.go.set()
        assert [job.future.result(LIMIT).item() for job in (first, *others)] == [0, 2, 4, 6]
    assert held.batches == [("encode", [0]), ("encode", [1, 2, 3])]


def test_an_incomplete_batch_waits_for_more_until_it_is_full() -> None:
    held = Held()
    held.go.set()
    with batcher(held, max_batch=3, max_delay=FOREVER) as queue:
        jobs = [queue.submit("encode", column(number)) for number in (1, 2)]
        assert not held.batches
        assert not any(job.future.done() for job in jobs)
        jobs.append(queue.submit("encode", column(3)))
        assert [job.future.result(LIMIT).item() for job in jobs] == [2, 4, 6]
    assert held.batches == [("encode", [1, 2, 3])]


def test_hurry_waits_for_no_more() -> None:
    with batcher(double, max_delay=FOREVER) as queue:
        job = queue.submit("encode", column(1))
        queue.hurry()
        assert job.future.result(LIMIT).item() == 2


def test_a_large_request_is_split_over_devices() -> None:
    first, second = Held(), Held()
    with batcher(first, second, max_batch=2) as queue:
        job = queue.submit("encode", column(1, 2, 3, 4, 5))
        first.wait_entered()
        second.wait_entered()
        assert queue.waiting == 1
        second.go.set()
        first.go.set()
        assert job.future.result(LIMIT)[:, 0].tolist() == [2, 4, 6, 8, 10]
    assert sorted(values for _, values in first.batches + second.batches) == [[1, 2], [3, 4], [5]]


def test_models_take_turns_by_who_has_waited_longest() -> None:
    held = Held()
    with batcher(held, max_batch=2) as queue:
        jobs = [queue.submit("encode", column(0))]
        held.wait_entered()
        for model, value in (("decode", 1), ("encode", 2), ("encode", 3), ("encode", 4), ("decode", 5)):
            jobs.append(queue.submit(model, column(value)))
        held.go.set()
        assert [job.future.result(LIMIT).item() for job in jobs] == [0, 3, 4, 6, 8, 15]
    assert held.batches == [("encode", [0]), ("decode", [1, 5]), ("encode", [2, 3]), ("encode", [4])]


def test_an_error_fails_the_requests_of_its_batch_and_no_other() -> None:
    held = Held()
    reports: list[BatchReport] = []

    def run(model: str, rows: Rows) -> Rows:
        out = held(model, rows)
        if 13 in rows:
            raise BackendError("no")
        return out

    with batcher(run, max_batch=2, observe=reports.append) as queue:
        before = queue.submit("encode", column(0))
        held.wait_entered()
        bad = queue.submit("encode", column(13, 13, 13))
        joined = queue.submit("encode", column(1))
        held.go.set()
        assert before.future.result(LIMIT).item() == 0
        with pytest.raises(BackendError, match="no"):
            bad.future.result(LIMIT)
        assert joined.future.result(LIMIT).item() == 2
        assert queue.submit("encode", column(5)).future.result(LIMIT).item() == 10
    assert held.batches == [("encode", values) for values in ([0], [13, 13], [1], [5])]  # its third row was dropped
    assert [type(report.error) for report in reports[:3]] == [type(None), BackendError, type(None)]


def test_a_run_of_wrong_length_is_an_error_of_its_requests() -> None:
    with batcher(lambda model, rows: rows[1:]) as queue, pytest.raises(ValueError, match="gave 0 results for 1 row"):
        queue.submit("encode", column(1)).future.result(LIMIT)


def test_a_cancelled_request_is_not_computed() -> None:
    held = Held()
    with batcher(held, max_batch=1) as queue:
        running = queue.submit("encode", column(0))
        held.wait_entered()
        dropped, kept = queue.submit("encode", column(1, 2)), queue.submit("encode", column(3))
        assert queue.waiting == 3
        assert dropped.future.cancel()
        assert queue.waiting == 1
        held.go.set()
        assert running.future.result(LIMIT).item() == 0
        assert kept.future.result(LIMIT).item() == 6
    assert held.batches == [("encode", [0]), ("encode", [3])]


def test_a_request_that_is_cancelled_while_it_runs_disturbs_nobody() -> None:
    held = Held()
    with batcher(held) as queue:
        running = queue.submit("encode", column(0))
        held.wait_entered()
        assert running.future.cancel()
        held.go.set()
        assert queue.submit("encode", column(1)).future.result(LIMIT).item() == 2
        with pytest.raises(CancelledError):
            running.future.result(LIMIT)


def keep(queue: Batcher, count: int) -> None:
    with queue.room(count):
        raise AssertionError("there is no room")


def test_what_is_being_prepared_has_its_room() -> None:
    with batcher(double, max_waiting=3) as queue:
        with queue.room(2):
            with pytest.raises(QueueFullError, match="2 images are waiting, and 2 more"):
                keep(queue, 2)
            with pytest.raises(QueueFullError, match="2 images are waiting, and 2 more"):
                queue.submit("encode", column(1, 2))
            assert queue.submit("encode", column(1)).future.result(LIMIT).item() == 2
        assert queue.submit("encode", column(1, 2, 3)).future.result(LIMIT).tolist() == [[2], [4], [6]]


def test_a_full_queue_rejects_at_once_and_takes_again_when_there_is_room() -> None:
    held = Held()
    with batcher(held, max_waiting=3) as queue:
        jobs = [queue.submit("encode", column(0))]
        held.wait_entered()
        jobs.append(queue.submit("encode", column(1, 2)))
        with queue.room(1):
            pass
        for reject in (keep, lambda queue, count: queue.submit("encode", np.zeros((count, 1), np.int32))):
            with pytest.raises(QueueFullError, match="2 images are waiting, and 2 more would exceed the limit of 3"):
                reject(queue, 2)
        held.go.set()
        assert jobs[1].future.result(LIMIT).tolist() == [[2], [4]]
        assert queue.submit("encode", column(4, 5, 6)).future.result(LIMIT).tolist() == [[8], [10], [12]]


@pytest.mark.parametrize("drain", [True, False])
def test_closing_runs_what_waits_or_fails_it(drain: bool) -> None:
    held = Held()
    with batcher(held) as queue:
        running = queue.submit("encode", column(1))
        held.wait_entered()
        waiting = queue.submit("encode", column(2))
        closing = threading.Thread(target=lambda: queue.close(drain=drain))
        closing.start()
        if not drain:
            with pytest.raises(ClosedError, match="stopped"):
                waiting.future.result(LIMIT)
        held.go.set()
        closing.join(LIMIT)
        assert not closing.is_alive()
        assert running.future.result(LIMIT).item() == 2
        if drain:
            assert waiting.future.result(LIMIT).item() == 4
        with pytest.raises(ClosedError, match="stopping"):
            queue.submit("encode", column(3))


def test_closing_does_not_wait_for_a_run_that_hangs() -> None:
    held = Held()
    with batcher(held) as queue:
        queue.submit("encode", column(1))
        held.wait_entered()
        assert not queue.close(drain=False, timeout=0.01)
        held.go.set()
        assert queue.close(drain=False, timeout=LIMIT)


def test_times_of_a_request_are_in_order() -> None:
    with batcher(double) as queue:
        job = queue.submit("encode", column(1, 2, 3, 4, 5))
        job.future.result(LIMIT)
    assert job.started is not None
    assert job.ended is not None
    assert job.arrived <= job.started <= job.ended
