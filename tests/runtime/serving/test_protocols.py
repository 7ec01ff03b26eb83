"""What clients, proxies and probes expect of HTTP and gRPC beside inference."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from contextlib import closing, suppress

import grpc
import pytest

from coda_runtime.errors import CodaError
from coda_runtime.serving import sockets
from coda_runtime.serving.options import ServeOptions
from tests.runtime.serving.process import LIMIT, Server, ids_body

DECODE = "/v2/models/decode/infer"
BODY = ids_body()
LENGTH = f"content-length: {len(BODY)}"
CHUNKED = "transfer-encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, BODY[:10], len(BODY) - 10, BODY[10:])
H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA"


def post(offer: str, framing: str, body: bytes) -> bytes:
    return f"POST {DECODE} HTTP/1.1\r\nhost: x\r\n{offer}\r\n{framing}\r\n\r\n".encode() + body


def get(offer: str) -> bytes:
    return f"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n{offer}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "request_",
    [
        post(H2C, LENGTH, BODY),
        post(H2C, CHUNKED, CHUNKS),
        post("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13", LENGTH, BODY),
        post("upgrade: TLS/1.0\r\nConnection: keep-alive, UPGRADE", LENGTH, BODY),
        get(H2C),
        get("connection: upgrade\r\nupgrade: websocket"),
    ],
    ids=["h2c", "h2c-in-chunks", "websocket", "tls", "get-h2c", "get-websocket"],
)
@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_an_offer_of_another_protocol_is_ignored(server: Server, request_: bytes, pieces: int) -> None:
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as client, client.makefile("rb") as answers:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Twice in one stream: the connection goes on after the first.
        stream = request_ * 2
        step = -(-len(stream) // pieces)
        for at in range(0, len(stream), step):
            client.sendall(stream[at : at + step])
        for _ in range(2):
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = http.client.parse_headers(answers)
            assert "connection" not in headers
            body = answers.read(int(headers["content-length"]))
            assert json.loads(body)


def test_an_offer_of_another_protocol_does_not_hide_the_end_of_a_connection(server: Server) -> None:
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as client, client.makefile("rb") as answers:
        client.sendall(post("connection: upgrade, close\r\nupgrade: h2c", LENGTH, BODY))
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
        assert answers.read()  # to the end, which comes


def test_an_offer_that_comes_with_an_unknown_framing_is_400(server: Server) -> None:
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as client, client.makefile("rb") as answers:
        client.sendall(post("connection: upgrade\r\nupgrade: h2c", "transfer-encoding: gzip", BODY))
        assert answers.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        assert answers.read()
    assert not [line for line in server.lines if line["level"] == "error"]


def test_what_comes_behind_the_last_request_of_a_connection_is_ignored(server: Server) -> None:
    host, _, port = server.http.rpartition(":")
    for offer in ("connection: close", "connection: upgrade, close\r\nupgrade: h2c"):
        with socket.create_connection((host, int(port)), LIMIT) as client, client.makefile("rb") as answers:
            client.sendall(post(offer, LENGTH, BODY) + get("x: y"))
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(("path", "body"), [(f"{DECODE}/", BODY), ("/v2/", None), ("/v2/health/ready//", None)])
def test_a_slash_at_the_end_is_nothing_and_leads_nowhere_else(server: Server, path: str, body: bytes | None) -> None:
    with closing(http.client.HTTPConnection(server.http, timeout=LIMIT)) as connection:
        connection.request("GET" if body is None else "POST", path, body, {"Host": "elsewhere.example"})
        with connection.getresponse() as response:
            assert (response.status, response.getheader("location")) == (200, None)


def check_health(server: Server, request: bytes) -> bytes:
    with grpc.insecure_channel(server.grpc) as channel:
        answer: bytes = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(request, timeout=LIMIT)
    return answer


def test_probes_of_grpc_are_answered(server: Server) -> None:
    name = b"inference.GRPCInferenceService"
    assert check_health(server, b"") == b"\x08\x01"
    assert check_health(server, b"\x0a" + bytes([len(name)]) + name) == b"\x08\x01"
    for request, code in ((b"\x0a\x03abc", "NOT_FOUND"), (b"\x0a\xff", "INVALID_ARGUMENT")):
        with pytest.raises(grpc.RpcError) as error:
            check_health(server, request)
        assert error.value.code().name == code


def reachable(port: int) -> set[str]:
    found = set()
    for host in ("127.0.0.1", "::1"):
        with suppress(OSError):
            socket.create_connection((host, port), LIMIT).close()
            found.add(host)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_both_protocols_listen_at_the_same_addresses(host: str) -> None:
    options = ServeOptions(host=host, http_port=0, grpc_port=0)

    async def both() -> list[set[str]]:
        with sockets.listen(options) as listeners:
            server = grpc.aio.server()
            where = sockets.bind_grpc(server, options, listeners)
            await server.start()
            ports = {listener.getsockname()[1] for listener in listeners}
            assert len(ports) == 1
            try:
                return [reachable(port) for port in (*ports, int(where.rpartition(":")[2]))]
            finally:
                await server.stop(None)

    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    by_http, by_grpc = asyncio.run(both())
    assert by_http == by_grpc != set()


def test_an_address_that_the_system_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /etc/hosts names ::1, and a container has no IPv6."""
    both = [(socket.AF_INET6, 0, 0, "", ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with sockets.listen(ServeOptions(host="localhost", http_port=0, grpc_port=0)) as (only,):
        assert only.getsockname()[0] == "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both[:1])
    with (
        pytest.raises(CodaError, match="cannot listen on there:0"),
        sockets.listen(ServeOptions(host="there", http_port=0, grpc_port=0)),
    ):
        pass


def test_as_many_files_may_be_open_as_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    wanted: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: wanted.append(limits))
    for now in ((256, 1000), (256, resource.RLIM_INFINITY), (4096, 8192), (resource.RLIM_INFINITY,) * 2):
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=now: now)
        sockets.allow_files(4096)
    assert wanted == [(1000, 1000), (4096, resource.RLIM_INFINITY)]
