"""What a server does when it has too much to do, too little time, or is asked to stop."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2 as messages

from tests.runtime.serving.conftest import WAITING
from tests.runtime.serving.process import LIMIT, Server, ids_body, run_serve

DECODE = "/v2/models/decode/infer"


def decode_request(rows: int) -> messages.ModelInferRequest:
    tensor = {"name": "ids", "datatype": "INT32", "shape": [rows, 1]}
    return messages.ModelInferRequest(model_name="decode", inputs=[tensor], raw_input_contents=[bytes(4 * rows)])


def infer_call(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        messages.ModelInferRequest.SerializeToString,
        messages.ModelInferResponse.FromString,
    )


def decode_by_grpc(server: Server, rows: int) -> tuple[str, str]:
    """Status and its words."""
    with grpc.insecure_channel(server.grpc) as channel:
        try:
            infer_call(channel)(decode_request(rows), timeout=LIMIT)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""


def test_full_is_rejected_at_once_and_stopping_finishes_what_was_taken(patient: Server) -> None:
    slow = http.client.HTTPConnection(patient.http, timeout=LIMIT)
    with ThreadPoolExecutor(1) as pool, closing(slow):
        waiting = pool.submit(patient.post, DECODE, ids_body(WAITING))
        patient.wait_for_metric("coda_queue_images", WAITING)
        _check_full(patient)
        # A second one under way is all there may be; its body is to come.
        slow.putrequest("POST", DECODE)
        slow.putheader("content-length", str(len(ids_body())))
        slow.endheaders()
        patient.wait_for_metric("coda_requests_active", 2)
        status, text = patient.post(DECODE, ids_body())
        assert (status, "2 requests are in progress" in text) == (503, True)
        assert decode_by_grpc(patient, 1)[0] == "RESOURCE_EXHAUSTED"
        assert patient.get("/v2/health/ready")[0] == 200

        patient.process.send_signal(signal.SIGTERM)
        assert patient.wait_for("stopping")["requests_under_way"] == 2
        status, text = waiting.result(LIMIT)
        assert (status, json.loads(text)["outputs"][0]["shape"][0]) == (200, WAITING)
        _check_stopping(patient)  # as long as the slow one is under way
        slow.send(ids_body())
        with slow.getresponse() as response:
            assert response.status == 200
    assert patient.process.wait(LIMIT) == 0


def _check_full(server: Server) -> None:
    status, text = server.post(DECODE, ids_body())
    assert (status, "4 images are waiting, and 1 more would exceed the limit of 4" in text) == (503, True)
    code, words = decode_by_grpc(server, 1)
    assert (code, "exceed the limit of 4" in words) == ("RESOURCE_EXHAUSTED", True)
    server.wait_for_metric('coda_errors_total{kind="busy"}', 2)  # gRPC's is counted once its answer was taken
    connection = http.client.HTTPConnection(server.http, timeout=LIMIT)
    with closing(connection):
        connection.request("POST", DECODE, ids_body())
        assert connection.getresponse().headers["Retry-After"] == "1"


def _check_stopping(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.http, timeout=LIMIT)) as connection:
        connection.request("GET", "/v2/health/live")
        with connection.getresponse() as response:
            assert response.headers["Connection"] == "close"
    assert server.get("/v2/health/live")[0] == 200
    assert server.get("/v2/health/ready")[0] == 503
    assert server.get("/v2/models/encode/ready")[0] == 503
    status, text = server.post(DECODE, ids_body())
    assert (status, "the server is stopping" in text) == (503, True)
    assert decode_by_grpc(server, 1)[0] == "UNAVAILABLE"
    with grpc.insecure_channel(server.grpc) as channel:
        path = "/inference.GRPCInferenceService/ServerReady"
        ask = channel.unary_unary(
            path, messages.ServerReadyRequest.SerializeToString, messages.ServerReadyResponse.FromString
        )
        assert not ask(messages.ServerReadyRequest(), timeout=LIMIT).ready
        assert channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(b"", timeout=LIMIT) == b"\x08\x02"


def test_who_gives_up_leaves_the_queue_and_a_second_signal_ends_the_process_at_once(patient: Server) -> None:
    host, _, port = patient.http.rpartition(":")
    head = f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(ids_body())}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), LIMIT) as client:
        client.sendall(head + ids_body())
        patient.wait_for_metric("coda_queue_images", 1)
    patient.wait_for_metric("coda_queue_images", 0)
    with grpc.insecure_channel(patient.grpc) as channel:
        call = infer_call(channel).future(decode_request(1), timeout=LIMIT)
        patient.wait_for_metric("coda_queue_images", 1)
        call.cancel()
        patient.wait_for_metric("coda_queue_images", 0)
    for protocol in ("http", "grpc"):
        patient.wait_for_metric(f'coda_requests_total{{code="CANCELLED",model="decode",protocol="{protocol}"}}', 1)
    with socket.create_connection((host, int(port)), LIMIT) as client:
        client.sendall(head)  # and no body, so that there is something to wait for
        patient.wait_for_metric("coda_requests_active", 1)
        patient.process.send_signal(signal.SIGTERM)
        patient.wait_for("stopping")
        patient.process.send_signal(signal.SIGINT)
        assert patient.process.wait(LIMIT) == -signal.SIGINT


def test_requests_that_outlast_the_drain_are_cut_off_and_the_exit_code_says_so(sealed: Path) -> None:
    server = Server(sealed, "--drain-seconds", 0.1)
    try:
        server.wait_for("ready")
        host, _, port = server.http.rpartition(":")
        with socket.create_connection((host, int(port)), LIMIT) as client:
            client.sendall(f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode())
            server.wait_for_metric("coda_requests_active", 1)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(LIMIT) == 1
        server.kill()  # joins the reader of its output
        assert "".join(server.other_output).startswith(
            "error: requests were still in progress after 0.1 s and were cut"
        )
    finally:
        server.kill()


def test_an_answer_that_comes_too_late_is_a_timeout_and_leaves_the_queue(hasty: Server) -> None:
    late = 'coda_requests_total{code="DEADLINE_EXCEEDED",model="decode",protocol="http"}'
    before = hasty.metric(late)
    status, text = hasty.post(DECODE, ids_body())
    assert (status, "no answer within 1 s" in text) == (504, True)
    code, words = decode_by_grpc(hasty, 1)
    assert (code, "no answer within 1 s" in words) == ("DEADLINE_EXCEEDED", True)
    hasty.wait_for_metric("coda_queue_images", 0)
    assert hasty.metric('coda_images_total{model="decode"}') == 0
    assert hasty.metric(late) == before + 1


def test_a_body_that_does_not_come_is_408(hasty: Server) -> None:
    host, _, port = hasty.http.rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as slow:
        slow.sendall(f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1".encode())
        assert slow.recv(12) == b"HTTP/1.1 408"


def test_a_connection_that_sends_nothing_more_is_cut(hasty: Server) -> None:
    host, _, port = hasty.http.rpartition(":")
    starts = [b"", b"GET /v2 HT", b"GET /nothing HTTP/1.1\r\ncontent-length: 9\r\n\r\n1"]
    connections = [socket.create_connection((host, int(port)), LIMIT) for _ in starts]
    for connection, start in zip(connections, starts, strict=True):
        connection.sendall(start)
    for connection in connections:
        with connection, suppress(ConnectionResetError):
            while connection.recv(1000):  # until it is cut; a timeout of the socket is an error
                pass


def test_a_port_that_is_taken_is_one_line_and_exit_code_1(sealed: Path) -> None:
    def port_of(listener: socket.socket) -> int:
        return int(listener.getsockname()[1])

    with socket.create_server(("127.0.0.1", 0)) as taken, ThreadPoolExecutor(2) as pool:
        options: dict[str, list[object]] = {
            "HTTP": ["--http-port", port_of(taken), "--grpc-port", 0],
            "gRPC": ["--http-port", 0, "--grpc-port", port_of(taken)],
        }
        runs = {name: pool.submit(run_serve, sealed, *arguments) for name, arguments in options.items()}
        for name, run in runs.items():
            done = run.result()
            address = f"127.0.0.1:{port_of(taken)}"
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == (
                f"error: {name} cannot listen on {address} (Address already in use); stop what is listening there, or "
                f"choose another --{name.lower()}-port or --host\n"
            )
