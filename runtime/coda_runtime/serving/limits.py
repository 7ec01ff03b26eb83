"""What keeps an HTTP client from taking more than its share: sizes of headers and bodies, and time to send them."""

from __future__ import annotations

import asyncio
import time
from asyncio import TimerHandle
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .connections import moved
from .errors import RequestError
from .options import MAX_CONNECTIONS, MAX_HEADER_BYTES
from .waits import GRACE

T = TypeVar("T")
_CONNECTION = "coda.connection"  # in the state of a request's scope
_SLACK = 2.0  # seconds after which a connection is cut, so that an error response comes first


def check_headers(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuse a body that is compressed, or says that it is larger than `max_bytes` bytes. Raises RefusedError."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestError(
            "content_encoding", f"the body is compressed ({encoding!r}), which is not supported; send it uncompressed"
        )
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length) > max_bytes:
        raise _too_large(length, max_bytes)


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body, of which never more than `max_bytes` bytes are kept. Raises RefusedError."""
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("client_gone", "the client closed the connection while sending the request")
        size += len(message["body"])
        if size > max_bytes:
            raise _too_large(f"over {max_bytes}", max_bytes)
        chunks.append(message["body"])
        more = message["more_body"]
    return b"".join(chunks)


async def send_until_read(send: Send, response: Response) -> None:
    """Send a response, and return when the client has taken all but what sockets buffer, or was cut off."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    # uvloop writes when this turn of the loop is over; only then is it known whether the client keeps up.
    await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


class Connection(Protocol):
    """The connection that a request came over. `was_cut` tells whether the server ended it."""

    was_cut: bool

    def moved(self) -> int | None:
        """Return the bytes that the client has sent and taken so far. None where the system does not tell."""

    def cut(self) -> bool:
        """End it at once, whatever is still to be sent there, and return True."""

    def kept(self) -> AbstractContextManager[None]:
        """Keep it for the length of a block, also where another one wants its place."""


def connection_of(scope: Scope) -> Connection:
    """Return the connection of a request."""
    connection: Connection = scope["state"][_CONNECTION]
    return connection


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Wait for `work`, and cancel it when the client hangs up. Raises RefusedError then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestError("client_gone", "the client closed the connection before its answer was ready")
    finally:
        gone.cancel()
        task.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(length: str, max_bytes: int) -> RequestError:
    return RequestError(
        "too_large",
        f"the body has {length[:30]} bytes, more than the limit of {max_bytes}; send fewer images in one request",
    )


def bounded_protocol(timeout: float, max_connections: int = MAX_CONNECTIONS) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol with bounds on long headers, and on clients that neither send nor read.

    Args:
        timeout: seconds from the first byte of a request (or the connection's start) to its last one, and seconds
            in which an answer must be read.
        max_connections: at a time; for another one, the one that has been idle for longest is ended, or the one that
            has not been read for longest.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _since = 0.0  # when it was opened, or its last request was answered
        _primed = False  # while the parser is told once more what the protocol knows
        _head_bytes = 0  # since a head or a chunk of a body ended: of headers, also those behind a body in chunks
        _went_on = False
        _sending: TimerHandle | None = None  # while the client is to send
        _reading: TimerHandle | None = None  # while the client is to read
        _unread_since = 0.0  # when it began to
        _kept = False
        _cycles: Sequence[RequestResponseCycle] = ()  # of requests that are not answered; the last is uvicorn's own
        was_cut = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
            super().connection_made(transport)
            self._since = time.monotonic()
            if len(self.connections) > max_connections:
                self._make_room()
            self._sending = self._limit()

        def connection_lost(self, exc: Exception | None) -> None:
            self._sending = _stopped(self._sending)
            self._reading = _stopped(self._reading)
            for cycle in self._cycles:  # uvicorn tells the last one alone, and those before it would write on
                cycle.disconnected = True
                cycle.message_event.set()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._sending = self._sending or self._limit()
            self._head_bytes += len(data)
            self._went_on = False
            self._parse(data)
            if self._went_on:
                self._head_bytes = 0
            elif self._head_bytes > MAX_HEADER_BYTES:
                self.send_400_response(f"The headers have over {MAX_HEADER_BYTES} bytes.")

        def _parse(self, data: bytes) -> None:
            """Parse as uvicorn does, but as if nobody had asked for another protocol than HTTP/1.1.

            Clients that offer h2c send the body nevertheless. The parser takes the message to end at the headers then,
            so a new one is told how the body is framed, and goes on behind them.
            """
            self._unset_keepalive_if_required()
            while data:
                try:
                    self.parser.feed_data(data)
                except HttpParserUpgrade as offer:
                    data = data[offer.args[0] :]
                    if self._go_on():
                        continue
                except HttpParserError:
                    self._refuse()
                break

        def _go_on(self) -> bool:
            """Take a new parser behind the headers. False if it cannot tell how the body is framed."""
            head = _framing(self.parser, self.headers)
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            self._primed = True
            try:
                self.parser.feed_data(head)
            except HttpParserError:
                self._refuse()
                return False
            finally:
                self._primed = False
            return True

        def _refuse(self) -> None:
            self.send_400_response("Invalid HTTP request received.")

        def on_message_begin(self) -> None:
            if not self._primed:
                super().on_message_begin()
                self.scope["state"][_CONNECTION] = self

        def on_url(self, url: bytes) -> None:
            if not self._primed:
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._primed:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self._primed:
                return
            self._went_on = True
            super().on_headers_complete()
            self._cycles = [*(each for each in self._cycles if not each.response_complete), self.cycle]

        def on_body(self, body: bytes) -> None:
            self._went_on = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():  # it is not: see _parse
                return
            self._went_on = True
            self._sending = _stopped(self._sending)
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._since = time.monotonic()
            super().on_response_complete()

        def _make_room(self) -> None:
            """End the connection that has been idle for longest, else unread for longest, else this one."""
            others = [each for each in self.connections if isinstance(each, BoundedProtocol) and each is not self]
            idle = [other for other in others if other.cycle is None or other.cycle.response_complete]
            unread = [other for other in others if other._is_unread()]
            oldest = min(idle, key=lambda other: other._since, default=None) or min(
                unread, key=lambda other: other._unread_since, default=self
            )
            self.connections.discard(oldest)  # as it does itself, but some turns of the loop later
            oldest.transport.abort()

        def _is_unread(self) -> bool:
            """Tell whether its client does not read. Of inference, that is for `Waits` to say."""
            return self._reading is not None and not self._kept and time.monotonic() - self._unread_since > GRACE

        def pause_writing(self) -> None:
            if self._reading is None:
                self._reading, self._unread_since = self._limit(), time.monotonic()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._reading = _stopped(self._reading)
            super().resume_writing()

        def _limit(self) -> TimerHandle:
            return self.loop.call_later(timeout + _SLACK, self.cut)

        def moved(self) -> int | None:
            return moved(self.transport.get_extra_info("socket").fileno())

        def cut(self) -> bool:
            self.was_cut = True
            self.transport.abort()
            return True

        @contextmanager
        def kept(self) -> Iterator[None]:
            self._kept = True
            try:
                yield
            finally:
                self._kept = False

    return BoundedProtocol


def _framing(parser: HttpRequestParser, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a head of the same length of body and the same end of connection as the parser's, without an upgrade."""
    lines = [b"POST / HTTP/" + parser.get_http_version().encode()]
    for name, value in headers:
        if name == b"connection":
            value = b", ".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")
        if name in (b"connection", b"content-length", b"transfer-encoding"):
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _stopped(timer: TimerHandle | None) -> TimerHandle | None:
    """Stop a timer that is of no more use, and return None in its place."""
    if timer is not None:
        timer.cancel()
    return None
