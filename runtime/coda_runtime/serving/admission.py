"""Inference requests of both protocols from arrival to answer: admitted, timed, counted, logged, and drained."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..io.counts import count, plural
from .errors import RequestError, request_error
from .metrics import MODELS, Metrics
from .options import MAX_TEXTS, SMALL_TEXT_BYTES, ServeOptions
from .waits import Waits

T = TypeVar("T")
_LOG = logging.getLogger("coda.serve")


@dataclass
class Record:
    """What is known of one request; its line in the log."""

    protocol: str
    model: str
    id: str = ""
    images: int = 0
    queue_ms: float | None = None
    run_ms: float | None = None
    failure: RequestError | None = None
    began: float = field(default_factory=time.monotonic)

    def fields(self, code: str) -> dict[str, Any]:
        """Return fields for the log; `code` is "OK" or a gRPC status."""
        milliseconds = {"queue_ms": self.queue_ms, "run_ms": self.run_ms, "total_ms": self.seconds * 1e3}
        known = {name: round(value, 2) for name, value in milliseconds.items() if value is not None}
        about = {"id": self.id, "model": self.model, "protocol": self.protocol, "images": self.images}
        why = {} if self.failure is None else {"kind": self.failure.kind, "error": str(self.failure)}
        return {**about, **known, "status": code, **why}

    @property
    def seconds(self) -> float:
        """Since it arrived."""
        return time.monotonic() - self.began


current_record: ContextVar[Record] = ContextVar("current_record")
"""The request that the running task works on."""


class Admission:
    """Takes inference requests while the server is ready and has room for them.

    `active` is how many are under way; `stopping` is true once it takes no more. All of it runs on the event loop.
    """

    def __init__(self, options: ServeOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._why_not = "the server is loading the bundle; wait until it is ready"
        self._ready = False
        self.active = 0
        self.stopping = False
        self.waits = Waits()
        self._texts = asyncio.Semaphore(MAX_TEXTS)
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self) -> None:
        """Take requests from now on."""
        self._ready = True

    def shut(self) -> None:
        """Take no more requests; those under way go on."""
        self.stopping = True
        self._ready, self._why_not = False, "the server is stopping; send the request to another one"

    async def idle(self, seconds: float) -> bool:
        """Wait until no request is under way. False when one still is after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def take(
        self,
        protocol: str,
        model: str,
        work: Callable[[Record], Awaitable[T]],
        *,
        until: asyncio.Task[Any] | None = None,
    ) -> T:
        """Do the work of one request. Raises RefusedError, whatever went wrong.

        The request counts as under way until this ends, or the task `until`, which sends the answer.
        """
        record = Record(protocol, model if model in MODELS else "other")
        current_record.set(record)
        done = admitted = False

        def ended(task: asyncio.Task[Any] | None = None) -> None:
            if admitted:
                self._release()
            self._tell(record, done and not (task is not None and task.cancelled()))

        try:
            self._admit()
            admitted = True
            out = await work(record)
            done = True
            return out
        except Exception as error:
            record.failure = request_error(error)
            raise record.failure from error
        finally:
            if until is None:
                ended()
            else:
                until.add_done_callback(ended)

    async def in_time(self, work: Awaitable[T]) -> T:
        """Wait for an answer as long as a request may take. Raises RefusedError after that."""
        try:
            async with asyncio.timeout(self._options.timeout):
                return await work
        except TimeoutError as error:
            raise RequestError(
                "timeout",
                f"no answer within {self._options.timeout:g} s; send fewer images, or send them again later",
            ) from error

    async def body_in_time(self, body: Awaitable[T], moved: Callable[[], int | None]) -> T:
        """Wait for a body as long as a request may take, or, if it is slow, until another one wants the place.

        `moved` tells how many bytes went over its connection so far.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._options.timeout) as limit:
                with self.waits.waiting(moved, limit):
                    return await body
        except TimeoutError as error:
            seconds = time.monotonic() - began
            if seconds < self._options.timeout:
                why = f"had not arrived after {seconds:.1f} s, and all {self._options.max_requests} places were taken"
            else:
                why = f"did not arrive within {self._options.timeout:g} s"
            raise RequestError("slow_body", f"the body {why}; send fewer images, or send them again later") from error

    def room_for_text(self, size: int) -> AbstractAsyncContextManager[Any]:
        """Hold room while a request of `size` bytes of text is under way: read, it takes many times its size."""
        return nullcontext() if size <= SMALL_TEXT_BYTES else self._texts

    def _admit(self) -> None:
        if not self._ready:
            raise RequestError("unavailable", self._why_not)
        # Who gives way is gone with the next turn of the loop.
        if self.active >= self._options.max_requests and not self.waits.give_way():
            raise RequestError(
                "busy",
                f"{count(self.active, 'request')} {plural(self.active, 'is', 'are')} in progress, which is the limit; "
                "send it again a little later",
            )
        self.active += 1
        self._metrics.active.set(self.active)
        self._idle.clear()

    def _release(self) -> None:
        self.active -= 1
        self._metrics.active.set(self.active)
        if not self.active:
            self._idle.set()

    def _tell(self, record: Record, answered: bool) -> None:
        """Count one request and log it, when all is known of it."""
        code = "OK" if answered else "CANCELLED"
        if record.failure is not None:
            code = record.failure.code
            self._metrics.errors.labels(record.failure.kind).inc()
        self._metrics.requests.labels(record.model, record.protocol, code).inc()
        self._metrics.request_seconds.labels(record.model).observe(record.seconds)
        _LOG.info("request", extra={"fields": record.fields(code)})
