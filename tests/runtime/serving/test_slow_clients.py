"""Clients that neither send nor read: they lose their places to others, and their memory after the timeout.

Those that go on at a modest rate keep their places.
"""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from tests.runtime.serving.process import LIMIT, Server, ids_body

DECODE = "/v2/models/decode/infer"
PLACES = 3
TIMEOUT = 6.0
"""Seconds; a place is free long before where somebody else wants it."""
IMAGES = 1000
"""In one request; as JSON their pixels are more than sockets buffer."""


@pytest.fixture(scope="module")
def narrow(sealed: Path) -> Iterator[Server]:
    server = Server(
        sealed, "--max-requests", PLACES, "--timeout", TIMEOUT, "--max-images", IMAGES, "--max-queue", 2 * IMAGES
    )
    try:
        server.wait_for("ready")
        yield server
    finally:
        server.kill()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class SlowReader:
    """A gRPC client whose window lets nothing of an answer through, and that goes on to answer pings."""

    HEAD = b"".join(
        field(*pair)
        for pair in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
            (b":authority", b"x"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )

    def __init__(self, server: Server) -> None:
        host, _, port = server.grpc.rpartition(":")
        self.connection = socket.create_connection((host, int(port)), LIMIT)
        window = struct.pack(">HI", 4, 0)
        self.connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, window) + frame(4, 1, 0, b""))

    def open_calls(self, count: int, message: bytes = b"") -> None:
        body = b"\0" + struct.pack(">I", len(message)) + message
        for stream in range(1, 2 * count, 2):
            sent = frame(1, 4, stream, self.HEAD) + (frame(0, 1, stream, body) if message else b"")
            self.connection.sendall(sent)

    def let_through(self, stream: int, count: int) -> None:
        """Widen the windows of a stream and of the connection by so many bytes."""
        self.connection.sendall(b"".join(frame(8, 0, number, struct.pack(">I", count)) for number in (0, stream)))

    def wait_until_cut(self) -> None:
        with suppress(ConnectionResetError):
            while self.connection.recv(1 << 16):
                pass


def decode_message() -> bytes:
    from tritonclient.grpc import service_pb2 as messages

    tensor = {"name": "ids", "datatype": "INT32", "shape": [64, 1]}
    request = messages.ModelInferRequest(model_name="decode", inputs=[tensor], raw_input_contents=[bytes(4 * 64)])
    out: bytes = request.SerializeToString()
    return out


def decode_by_grpc(server: Server) -> str:
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        try:
            call(decode_message(), timeout=LIMIT)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def test_an_answer_over_grpc_counts_until_it_is_read_and_is_dropped_at_the_timeout(narrow: Server) -> None:
    reader = SlowReader(narrow)
    with reader.connection:
        reader.open_calls(PLACES - 1, decode_message())
        narrow.wait_for_metric("coda_requests_active", PLACES - 1)
        assert decode_by_grpc(narrow) == "OK"
        narrow.wait_for_metric("coda_requests_active", PLACES - 1)
        reader.wait_until_cut()
    narrow.wait_for_metric("coda_requests_active", 0)


def test_unread_answers_over_grpc_give_way(narrow: Server) -> None:
    reader, other = SlowReader(narrow), SlowReader(narrow)
    with reader.connection, other.connection:
        reader.open_calls(PLACES - 1, decode_message())
        other.open_calls(1, decode_message())
        narrow.wait_for_metric("coda_requests_active", PLACES)
        time.sleep(1.5)
        began = time.monotonic()
        assert narrow.post(DECODE, ids_body())[0] == 200
        assert time.monotonic() - began < TIMEOUT / 2
    narrow.wait_for_metric("coda_requests_active", 0)


def test_one_grpc_connection_has_half_of_the_places(narrow: Server) -> None:
    reader = SlowReader(narrow)
    with reader.connection:
        reader.open_calls(2 * PLACES, decode_message())
        narrow.wait_for_metric("coda_requests_active", (PLACES + 1) // 2)
        time.sleep(0.5)
        assert narrow.metric("coda_requests_active") == (PLACES + 1) // 2
        assert narrow.post(DECODE, ids_body())[0] == 200
    narrow.wait_for_metric("coda_requests_active", 0)


def test_an_answer_that_was_cut_is_not_told_as_success(narrow: Server) -> None:
    """In the log and the metrics, over both protocols; those beside it on the same connection ended with it."""
    series = 'coda_requests_total{code="%s",model="decode",protocol="%s"}'
    kind = 'coda_errors_total{kind="slow_reader"}'
    before = {name: narrow.metric(name) for name in (kind, series % ("OK", "grpc"), series % ("OK", "http"))}
    reader, host_and_port = SlowReader(narrow), narrow.http.rpartition(":")
    with reader.connection, socket.socket() as client:
        reader.open_calls(2, decode_message())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host_and_port[0], int(host_and_port[2])))
        body = ids_body(IMAGES)
        client.sendall(f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        narrow.wait_for_metric(kind, before.pop(kind) + 3)
        narrow.wait_for_metric("coda_requests_active", 0)
    assert {name: narrow.metric(name) for name in before} == before
    for protocol in ("http", "grpc"):
        narrow.wait_for("request", protocol=protocol, kind="slow_reader", status="DEADLINE_EXCEEDED")


def test_who_reads_or_sends_steadily_keeps_its_place(narrow: Server) -> None:
    """Four seconds for each, three of which others ask for their places.

    A call that stalls on the gRPC connection of one that is read does not end both.
    """
    host, _, port = narrow.http.rpartition(":")
    body = ids_body().ljust(200_000)
    head = f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    reader = SlowReader(narrow)
    with ExitStack() as stack:
        stack.enter_context(reader.connection)
        reader.open_calls(2, decode_message())
        senders = [stack.enter_context(socket.create_connection((host, int(port)), LIMIT)) for _ in range(PLACES - 2)]
        for sender in senders:
            sender.sendall(head)
        narrow.wait_for_metric("coda_requests_active", PLACES)
        for tenth in range(40):
            for sender in senders:
                sender.sendall(body[tenth * 5000 :][: 5000 if tenth < 39 else None])
            reader.let_through(1, 4000)
            if tenth < 30:
                assert narrow.post(DECODE, ids_body())[0] == 503
            time.sleep(0.1)
        reader.let_through(1, 1 << 20)
        reader.let_through(3, 1 << 20)
        for sender in senders:
            assert sender.recv(12) == b"HTTP/1.1 200"
        narrow.wait_for_metric("coda_requests_active", 0)
    assert not [line for line in narrow.lines if line.get("kind") == "slow_body"]


def test_a_drip_of_a_body_gives_way(narrow: Server) -> None:
    host, _, port = narrow.http.rpartition(":")
    head = f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n".encode()
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), LIMIT)) for _ in range(PLACES)]
        for client in slow:
            client.sendall(head)
        for _ in range(20):
            for client in slow:
                client.sendall(b" " * 50)
            time.sleep(0.1)
        assert narrow.post(DECODE, ids_body())[0] == 200
    narrow.wait_for_metric("coda_requests_active", 0)


def test_calls_that_are_never_sent_give_way(narrow: Server) -> None:
    """Each client may open half as many as there are places; several of them fill all, those for health checks too."""
    with ExitStack() as stack:
        for _ in range(PLACES + 16):
            client = SlowReader(narrow)
            stack.enter_context(client.connection)
            client.open_calls(PLACES)
        time.sleep(1.5)
        began = time.monotonic()
        assert decode_by_grpc(narrow) == "OK"
        with grpc.insecure_channel(narrow.grpc) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(b"", timeout=LIMIT) == b"\x08\x01"
        assert time.monotonic() - began < TIMEOUT / 2


def test_a_call_that_is_never_sent_ends_at_the_timeout(narrow: Server) -> None:
    with grpc.insecure_channel(narrow.grpc) as channel:

        def never() -> Iterator[bytes]:
            time.sleep(TIMEOUT + 2)
            yield b""

        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        with pytest.raises(grpc.RpcError) as error:
            call(never(), timeout=LIMIT)
        assert error.value.code().name == "DEADLINE_EXCEEDED"
        with pytest.raises(grpc.RpcError) as error:
            call(iter(()), timeout=LIMIT)
        assert error.value.code().name == "INVALID_ARGUMENT"


def test_slow_bodies_give_way(narrow: Server) -> None:
    host, _, port = narrow.http.rpartition(":")
    head = f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode()
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), LIMIT)) for _ in range(PLACES)]
        for client in slow:
            client.sendall(head)
        narrow.wait_for_metric("coda_requests_active", PLACES)
        assert narrow.post(DECODE, ids_body())[0] == 503  # they may still come
        time.sleep(1.5)
        assert narrow.post(DECODE, ids_body())[0] == 200
        answer = http.client.HTTPResponse(slow[0])
        answer.begin()
        assert (answer.status, f"all {PLACES} places were taken" in answer.read().decode()) == (408, True)
    narrow.wait_for_metric("coda_requests_active", 0)


def test_idle_connections_give_way(narrow: Server) -> None:
    host, _, port = narrow.http.rpartition(":")
    with ExitStack() as stack:
        for _ in range(1030):
            stack.enter_context(socket.create_connection((host, int(port)), LIMIT))
        began = time.monotonic()
        assert narrow.get("/v2/health/ready")[0] == 200
        assert narrow.post(DECODE, ids_body())[0] == 200
        assert time.monotonic() - began < TIMEOUT / 2


def test_grpc_connections_are_limited_and_end_when_they_are_idle(sealed: Path) -> None:
    few = "import coda_runtime.serving.options as o; o.MAX_CONNECTIONS = 20; o.IDLE_SECONDS = 3"
    command = [sys.executable, "-c", f"{few}; from coda_runtime.cli import main; main()", "serve"]
    server = Server(sealed, "--timeout", 3, command=command)
    try:
        server.wait_for("ready")
        host, _, port = server.grpc.rpartition(":")
        with ExitStack() as stack:
            idle = [SlowReader(server) for _ in range(10)]
            silent = [socket.create_connection((host, int(port)), LIMIT) for _ in range(10)]
            for connection in [*(reader.connection for reader in idle), *silent]:
                stack.enter_context(connection)
            time.sleep(0.5)
            with socket.create_connection((host, int(port)), LIMIT) as one_more, suppress(ConnectionResetError):
                one_more.settimeout(1.5)
                assert one_more.recv(1) == b""
            assert server.get("/v2/health/ready")[0] == 200
            for connection in silent:
                with suppress(ConnectionResetError):
                    while connection.recv(1000):
                        pass
            for reader in idle:
                reader.wait_until_cut()
        assert decode_by_grpc(server) == "OK"
    finally:
        server.kill()
