"""The bounds on connections, with uvicorn in this process and an application that answers more than anyone reads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response

from coda_runtime.serving import limits
from tests.runtime.serving.process import LIMIT

ANSWER = 50_000_000  # bytes, more than sockets buffer
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@contextmanager
def serving(timeout: float, max_connections: int = 9) -> Iterator[tuple[tuple[str, int], threading.Event]]:
    """The address, and an event that is set when an answer has been sent or given up."""
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await limits.send_until_read(send, Response(bytes(ANSWER)))
        ended.set()

    protocol = limits.bounded_protocol(timeout, max_connections)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, access_log=False))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[:2], ended
    finally:
        server.should_exit = True
        thread.join(LIMIT)
        listener.close()


def read(client: socket.socket) -> int:
    """Bytes until the end."""
    count = 0
    with suppress(ConnectionResetError):
        while chunk := client.recv(1 << 20):
            count += len(chunk)
    return count


def test_a_client_that_does_not_read_is_cut_off() -> None:
    with serving(timeout=0.1) as (address, ended), socket.create_connection(address, LIMIT) as client:
        client.sendall(GET)
        assert ended.wait(LIMIT)
        assert read(client) < ANSWER


def test_a_client_that_reads_gets_all_of_it() -> None:
    with serving(timeout=LIMIT) as (address, ended), socket.create_connection(address, LIMIT) as client:
        client.sendall(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert read(client) > ANSWER
        assert ended.wait(LIMIT)


def test_over_the_limit_the_connection_that_is_idle_for_longest_ends() -> None:
    with serving(timeout=LIMIT, max_connections=2) as (address, _), ExitStack() as stack:
        busy = stack.enter_context(socket.create_connection(address, LIMIT))
        busy.sendall(GET)
        assert busy.recv(12) == b"HTTP/1.1 200"  # and nothing more of it, so that it is under way
        idle = stack.enter_context(socket.create_connection(address, LIMIT))
        last = stack.enter_context(socket.create_connection(address, LIMIT))
        assert read(idle) == 0
        last.sendall(GET)
        assert last.recv(12) == b"HTTP/1.1 200"
        one_more = stack.enter_context(socket.create_connection(address, LIMIT))
        assert read(one_more) == 0  # both are under way
        assert busy.recv(12)


def test_over_the_limit_a_connection_that_is_not_read_ends_if_none_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRACE", 0.1)
    with serving(timeout=LIMIT, max_connections=1) as (address, ended), ExitStack() as stack:
        unread = stack.enter_context(socket.create_connection(address, LIMIT))
        unread.sendall(GET * 9)
        assert unread.recv(12) == b"HTTP/1.1 200"
        time.sleep(1)
        last = stack.enter_context(socket.create_connection(address, LIMIT))
        last.sendall(GET)
        assert last.recv(12) == b"HTTP/1.1 200"
        assert ended.wait(LIMIT)
        assert read(unread) < ANSWER
