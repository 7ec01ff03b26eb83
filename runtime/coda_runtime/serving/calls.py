"""Bounds on gRPC calls, which gRPC itself has for their number alone: time to send a request, and to read an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from ..io.counts import count, plural
from .admission import Record, current_record
from .connections import Connections
from .errors import slow_reader
from .waits import Waits

_SLACK = 2.0  # seconds after which a connection is cut, so that an error comes first


class Calls(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Admits up to `limit` calls, each with `timeout` seconds to send its request and as many to read the answer.

    Args:
        limit: calls at a time, of every method.
        timeout: seconds.
        unread: methods whose requests are handed on as bytes: grpc would read them before anyone could look at what is
            in them.
        waits: of inference requests; one that waits for its reader counts among them too.
    """

    def __init__(self, limit: int, timeout: float, unread: tuple[str, ...], waits: Waits) -> None:
        self._limit, self._timeout, self._unread = limit, timeout, unread
        self._count = 0
        self._waits, self._inference_waits = Waits(), waits
        self._connections = Connections()
        self._answers: dict[asyncio.Task[Any], tuple[str, Record | None]] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return the method's handler, bounded."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        unread = details.method in self._unread

        async def answer(requests: Any, context: Any) -> Any:
            return await self._answer(handler.unary_unary, context, unread)

        # Of streams, grpc lets us read the request, and so decide how long that may take.
        return grpc.stream_unary_rpc_method_handler(
            answer,
            request_deserializer=None if unread else handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _answer(self, method: Callable[[Any, Any], Awaitable[Any]], context: Any, inference: bool) -> Any:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of the server
        if self._count >= self._limit and not self._waits.give_way():
            words = (
                f"{count(self._count, 'call')} {plural(self._count, 'is', 'are')} in progress, which is the "
                "limit; send it again a little later"
            )
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        self._count += 1
        task.add_done_callback(self._ended)
        peer = context.peer()
        moved = partial(self._connections.moved, peer)
        request = await self._read(context, moved)
        response = await method(request, context)
        # The task goes on to send it, and ends when the client has taken it.
        self._answers[task] = peer, current_record.get() if inference else None
        timer = asyncio.get_running_loop().call_later(self._timeout + _SLACK, self._cut, peer)
        waits = (self._waits, *[self._inference_waits] * inference)
        leave = [each.enter(moved, partial(self._cut, peer)) for each in waits]

        def sent(task: asyncio.Task[Any]) -> None:
            del self._answers[task]
            timer.cancel()
            for call in leave:
                call()

        task.add_done_callback(sent)
        return response

    def _cut(self, peer: str) -> bool:
        """End a connection. False if it is not found.

        grpc has nothing to end a call with whose answer waits for its client, so all calls of the connection end, which
        is why all that moves over it counts.
        """
        found = self._connections.cut(peer)
        for whose, record in self._answers.values():
            if found and record is not None and whose == peer:
                record.failure = slow_reader()
        return found

    async def _read(self, context: Any, moved: Callable[[], int | None]) -> Any:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                with self._waits.waiting(moved, limit):
                    request = await context.read()
        except TimeoutError:
            words = "the request did not arrive in time; send fewer images, or send them again later"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, words)
        if request is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no request; send one message")
        return request

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._count -= 1
