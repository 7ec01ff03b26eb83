"""Rows of many requests, joined into batches for as many workers as there are devices.

Nothing here knows a protocol: rows go in with `submit`, a future gives the results of the same rows. A free worker
takes what waits; it waits for more only until the oldest request is `max_delay` old or a batch is full.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ClosedError, CodaError
from ..io.counts import count, plural

Rows: TypeAlias = npt.NDArray[Any]
Run: TypeAlias = Callable[[str, Rows], Rows]
"""(model, rows [n, ...]) -> results [n, ...], on one device. It may be called by one thread only."""


class QueueFullError(CodaError):
    """More rows wait than may."""


@dataclass(frozen=True)
class BatchReport:
    """One batch that was run: `queue_seconds` has an entry for each request of which it was the first."""

    model: str
    rows: int
    run_seconds: float
    queue_seconds: tuple[float, ...]
    error: BaseException | None = None


@dataclass(eq=False)
class Job:
    """The rows of one request. `future` gives their results; to cancel it takes the rows out of the queue.

    `arrived`, `started` (its first rows) and `ended` are seconds of time.monotonic().
    """

    model: str
    rows: Rows
    future: Future[Rows] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    taken: int = 0
    _results: Rows | None = None
    _left: int = 0

    def __post_init__(self) -> None:
        self._left = len(self.rows)

    @property
    def waiting(self) -> int:
        """Rows that no worker has taken."""
        return len(self.rows) - self.taken

    def deliver(self, start: int, results: Rows) -> None:
        """Take the results of the rows from `start`; the last ones settle the future."""
        if len(results) < len(self.rows):
            if self._results is None:
                self._results = np.empty((len(self.rows), *results.shape[1:]), results.dtype)
            self._results[start : start + len(results)] = results
        else:
            self._results = results
        self._left -= len(results)

    def settle(self, error: BaseException | None = None) -> None:
        """Settle the future if all is there or something failed; not under the lock, since it calls others."""
        if error is None and self._left:
            return
        self.ended = time.monotonic()
        with suppress(InvalidStateError):  # cancelled, or another of its batches failed before
            if error is None:
                self.future.set_result(self._results)  # type: ignore[arg-type] # all rows are there
            else:
                self.future.set_exception(error)


@dataclass(frozen=True)
class _Chunk:
    job: Job
    start: int
    stop: int
    first: bool

    @property
    def rows(self) -> Rows:
        return self.job.rows[self.start : self.stop]


class Batcher:
    """Queues for rows, and a worker thread for each of `runs`.

    Rows are joined with rows of the same model, shape and dtype. Whose oldest request has waited longest comes first,
    so that no model starves another.

    Args:
        runs: one for each device; each is called by its own thread.
        max_batch: rows that go into one run at most; larger requests are split.
        max_delay: seconds that an incomplete batch may wait for more while a worker is free.
        max_waiting: rows that may wait; `submit` raises QueueFullError for more.
        observe: called by the workers after each run.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        max_batch: int,
        max_delay: float,
        max_waiting: int,
        observe: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.max_batch, self._max_delay, self._max_waiting = max_batch, max_delay, max_waiting
        self._observe = observe
        self._changed = threading.Condition()
        self._queues: dict[object, deque[Job]] = {}
        self._waiting = 0
        self._kept = 0
        self._closing = False
        # Daemons: a run that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, args=(run,), name=f"coda-device-{number}", daemon=True)
            for number, run in enumerate(runs)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Rows that wait now."""
        return self._waiting

    @contextmanager
    def room(self, rows: int) -> Iterator[None]:
        """Keep room for rows that are being prepared, until the block ends. Raises as `submit` does."""
        with self._changed:
            self._check_room(rows)
            self._kept += rows
        try:
            yield
        finally:
            with self._changed:
                self._kept -= rows

    def _check_room(self, rows: int) -> None:
        if self._closing:
            raise ClosedError("the server is stopping; send the request to another one")
        waiting = self._waiting + self._kept
        if waiting + rows > self._max_waiting:
            raise QueueFullError(
                f"{count(waiting, 'image')} {plural(waiting, 'is', 'are')} waiting, and {rows} more would exceed the "
                f"limit of {self._max_waiting}; send the request again later"
            )

    def submit(self, model: str, rows: Rows) -> Job:
        """Queue rows [n, ...], n from 1. Raises QueueFullError, ClosedError."""
        job = Job(model, rows)
        with self._changed:
            self._check_room(len(rows))
            self._queues.setdefault(_queue_key(job), deque()).append(job)
            self._waiting += len(rows)
            # All: whoever sleeps without a limit must learn of this request's limit.
            self._changed.notify_all()
        job.future.add_done_callback(lambda future: self._forget(job))
        return job

    def hurry(self) -> None:
        """Run what waits at once from now on: no more is to come."""
        with self._changed:
            self._max_delay = 0.0
            self._changed.notify_all()

    def close(self, *, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more, run what waits (or fail it with ClosedError), and end the workers. May be called twice.

        Waits `timeout` seconds for each worker's run at most. False where one still runs then, and goes on.
        """
        with self._changed:
            self._closing = True
            dropped = [] if drain else [job for jobs in self._queues.values() for job in jobs]
            self._changed.notify_all()
        for job in dropped:
            job.settle(ClosedError("the server stopped before this request's turn; send it to another one"))
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, run: Run) -> None:
        while chunks := self._next():
            self._run(run, chunks)

    def _next(self) -> list[_Chunk]:
        """Return the chunks of the next batch when it is due; none when all is done and the queues are closed."""
        with self._changed:
            while True:
                if not self._queues and self._closing:
                    return []
                now = time.monotonic()
                due = {key: self._due(jobs) for key, jobs in self._queues.items()}
                ready = [key for key, moment in due.items() if moment <= now]
                if ready:
                    return self._take(min(ready, key=lambda key: self._queues[key][0].arrived))
                self._changed.wait(min(due.values()) - now if due else None)

    def _due(self, jobs: deque[Job]) -> float:
        """Return when a queue's next batch is to start; in the past if at once."""
        full = sum(job.waiting for job in jobs) >= self.max_batch
        return 0.0 if full or self._closing else jobs[0].arrived + self._max_delay

    def _take(self, key: object) -> list[_Chunk]:
        jobs, room = self._queues[key], self.max_batch
        chunks: list[_Chunk] = []
        while jobs and room:
            job = jobs[0]
            count = min(room, job.waiting)
            chunks.append(_Chunk(job, job.taken, job.taken + count, job.started is None))
            job.started = job.started or time.monotonic()
            job.taken += count
            room -= count
            if not job.waiting:
                jobs.popleft()
        if not jobs:
            del self._queues[key]
        self._waiting -= self.max_batch - room
        return chunks

    def _run(self, run: Run, chunks: list[_Chunk]) -> None:
        model, rows_run = chunks[0].job.model, sum(chunk.stop - chunk.start for chunk in chunks)
        queued = tuple((chunk.job.started or 0.0) - chunk.job.arrived for chunk in chunks if chunk.first)
        began = time.monotonic()
        problem: BaseException | None = None
        try:
            rows = chunks[0].rows if len(chunks) == 1 else np.concatenate([chunk.rows for chunk in chunks])
            results = run(model, rows)
            if len(results) != rows_run:
                raise ValueError(f"{model} gave {count(len(results), 'result')} for {count(rows_run, 'row')}")
        except BaseException as error:  # whatever it is, the worker must go on and the requests be told
            problem = error
        report = BatchReport(model, rows_run, time.monotonic() - began, queued, problem)
        if problem is None:
            with self._changed:  # chunks of one request may come back from several workers
                start = 0
                for chunk in chunks:
                    stop = start + chunk.stop - chunk.start
                    chunk.job.deliver(chunk.start, results[start:stop])
                    start = stop
        for chunk in chunks:
            chunk.job.settle(problem)
        self._observe(report)

    def _forget(self, job: Job) -> None:
        """Take the rows of a job that was cancelled, or of which a batch failed, out of the queue."""
        with self._changed:
            key = _queue_key(job)
            jobs = self._queues.get(key)
            if not job.waiting or jobs is None or job not in jobs:
                return
            jobs.remove(job)
            self._waiting -= job.waiting
            if not jobs:
                del self._queues[key]
            self._changed.notify_all()


def _queue_key(job: Job) -> object:
    return job.model, job.rows.shape[1:], job.rows.dtype.str
