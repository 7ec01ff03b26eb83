"""Bounds on gRPC calls, which gRPC itself has for their number alone: time to send a request, and to read an answer."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc

from .waits import Waits

_SLACK = 2.0  # seconds after which a connection is cut, so that an error comes first
_OWN_FILES = Path("/dev/fd")


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
            words = f"{self._count} calls are in progress, which is the limit; send it again a little later"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        self._count += 1
        task.add_done_callback(self._ended)
        request = await self._read(context)
        response = await method(request, context)
        # The task goes on to send it, and ends when the client has taken it.
        peer = context.peer()
        timer = asyncio.get_running_loop().call_later(self._timeout + _SLACK, cut, peer)
        leave = [waits.enter(partial(cut, peer)) for waits in (self._waits, *[self._inference_waits] * inference)]

        def sent(task: asyncio.Task[Any]) -> None:
            timer.cancel()
            for call in leave:
                call()

        task.add_done_callback(sent)
        return response

    async def _read(self, context: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                with self._waits.waiting(limit):
                    request = await context.read()
        except TimeoutError:
            words = "the request did not arrive in time; send fewer images, or send them again later"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, words)
        if request is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no request; send one message")
        return request

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._count -= 1


def cut(peer: str) -> None:
    """End the connection of a client, "ipv4:127.0.0.1:40000".

    grpc has nothing to end a call with whose answer waits for its client: the connection is looked up among the
    process's own. Where the system does not list these, it ends when it is too old.
    """
    _, _, where = unquote(peer).partition(":")
    host, _, port = where.rpartition(":")
    with suppress(OSError, ValueError):
        wanted = _plain(host.strip("[]")), int(port)
        for path in list(_OWN_FILES.iterdir()):
            with suppress(OSError, ValueError):
                if stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                    _cut_if(int(path.name), wanted)


def _cut_if(number: int, wanted: tuple[object, int]) -> None:
    # A copy of the descriptor: the number may be another file's by now, which is then not touched.
    with socket.socket(fileno=os.dup(number)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        found = connection.getpeername()
        if (_plain(found[0]), found[1]) == wanted:
            connection.shutdown(socket.SHUT_RDWR)


def _plain(ip: str) -> object:
    """Return an address, that of IPv4 where IPv6 only carries it."""
    address = ipaddress.ip_address(ip)
    return getattr(address, "ipv4_mapped", None) or address
