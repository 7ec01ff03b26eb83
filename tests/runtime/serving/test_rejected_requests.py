"""Requests that are refused: the status, and a sentence that says why. Never a 500, and the server goes on."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as messages

from coda_runtime.serving.options import MAX_HEADER_BYTES
from tests.runtime import tiny
from tests.runtime.serving.process import LIMIT, Server, ids_body

ENCODE, DECODE = "/v2/models/encode/infer", "/v2/models/decode/infer"
IDS = {"name": "ids", "datatype": "INT32", "shape": [1, 1], "data": [0]}
IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 0]}


@pytest.fixture(autouse=True)
def _goes_on(server: Server) -> Iterator[None]:
    """After every refusal the server still answers, and no request hangs in it."""
    yield
    assert server.post(DECODE, ids_body())[0] == 200
    assert server.metric('coda_errors_total{kind="internal"}') == 0
    assert server.metric('coda_errors_total{kind="engine"}') == 0


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as out:
        yield out


def call(channel: grpc.Channel, method: str, request: Any, answer: Any) -> tuple[str, str]:
    """The status of a call that is refused, and its words."""
    path = f"/inference.GRPCInferenceService/{method}"
    stub = channel.unary_unary(path, request.__class__.SerializeToString, answer.FromString)
    with pytest.raises(grpc.RpcError) as error:
        stub(request, timeout=LIMIT)
    return error.value.code().name, error.value.details()


def infer(channel: grpc.Channel, model: str, tensor: dict[str, Any], *raw: bytes) -> tuple[str, str]:
    request = messages.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=raw)
    return call(channel, "ModelInfer", request, messages.ModelInferResponse)


def bytes_request(file: bytes) -> tuple[bytes, dict[str, str]]:
    content = struct.pack("<I", len(file)) + file
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + content, {"Inference_Header_Content_Length": str(len(head))}


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("path", "request_", "words"),
    [
        (DECODE, {"inputs": [IDS | {"shape": [1, 2], "data": [0, 0]}]}, "whole number of scales, one of 1, 5, 21"),
        (DECODE, {"inputs": [IDS | {"data": [tiny.CODES]}]}, f"ids[0, 0] is {tiny.CODES}; expected 0 to"),
        (DECODE, {"inputs": [IDS | {"data": [-1]}]}, "ids[0, 0] is -1"),
        (DECODE, {"inputs": [IDS | {"shape": [2, 1]}]}, "ids has 1 number, and its shape says [2, 1]"),
        (DECODE, {"inputs": [IDS | {"shape": [-1, 1]}]}, "whole numbers from 0"),
        (DECODE, {"inputs": [IDS | {"shape": [2**60, 2**60]}]}, "whole numbers from 0"),
        (DECODE, {"inputs": [IDS | {"datatype": "FP32"}]}, "datatype 'FP32'; expected INT32 or INT64"),
        (DECODE, {"inputs": [IDS | {"data": [0.5]}]}, "not INT32"),
        (DECODE, {"inputs": [IDS | {"name": "id"}]}, "the inputs are 'id'; expected 'ids' once, and nothing else"),
        (DECODE, {"inputs": [IDS, IDS]}, "the inputs are 'ids', 'ids'; expected"),
        (DECODE, {"inputs": []}, "the inputs are none"),
        (DECODE, {"inputs": [IDS], "outputs": [{"name": "ids"}]}, "the outputs are 'ids'; decode has 'image'"),
        (DECODE, {"inputs": [IDS], "outputs": [{"name": "image"}] * 2}, "once, and nothing else"),
        (DECODE, {"inputs": [IDS | {"shape": [0, 1], "data": []}]}, "at least one token"),
        (DECODE, {"inputs": [IDS | {"shape": [21, 1], "data": [0] * 21}]}, "one request may have 20"),
        (ENCODE, {"inputs": [IDS]}, "expected 'image' once"),
        (ENCODE, {"inputs": [IMAGE | {"shape": [1, 1, 3]}]}, "add the batch axis"),
        (
            ENCODE,
            {"inputs": [IMAGE | {"shape": [1, 1, 1, 3], "data": [0, 1, 256]}]},
            "from 0 to 255",
        ),
        (
            ENCODE,
            {"inputs": [IMAGE | {"shape": [1, 1, 80_000, 3], "data": [0] * 240_000}]},
            "image has 80000 x 1 pixels, more than the limit of 70000",
        ),
        (ENCODE, {"inputs": [IMAGE | {"datatype": "BYTES", "shape": [1], "data": ["x"]}]}, "in JSON"),
    ],
)
def test_wrong_requests_are_400_and_say_why(server: Server, path: str, request_: Any, words: str) -> None:
    status, text = server.post(path, json.dumps(request_).encode())
    assert (status, words in json.loads(text)["error"]) == (400, True), text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "'image[0]' is not an image"),
        (b"GIF89a" + bytes(20), "'image[0]' is not an image"),
        (png(100_000, 100_000), "100000 x 100000"),
        (png(50, 50), "'image[0]' cannot be"),
    ],
)
def test_files_that_are_no_images_or_bombs_are_400(server: Server, file: bytes, words: str) -> None:
    content, headers = bytes_request(file)
    status, text = server.post(ENCODE, content, **headers)
    assert (status, words in json.loads(text)["error"]) == (400, True), text


def test_images_of_other_formats_are_400(server: Server) -> None:
    out = io.BytesIO()
    Image.fromarray(tiny.photos(1)[0]).save(out, "TIFF")
    content, headers = bytes_request(out.getvalue())
    assert server.post(ENCODE, content, **headers)[0] == 400


@pytest.mark.parametrize("length", ["-1", "abc", "99999999"])
def test_a_lying_json_length_is_400(server: Server, length: str) -> None:
    status, text = server.post(DECODE, ids_body(), Inference_Header_Content_Length=length)
    assert (status, "Inference-Header-Content-Length" in text) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nothing/infer", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/nothing/ready", 404),
        ("POST", "/v2/models/encode/versions/1/infer", 404),
        ("POST", "/v2/repository/models/encode/unload", 404),
        ("POST", "/v2/repository/models/encode/load", 404),
        ("POST", "/v1/models/encode:predict", 404),
        ("POST", "/v1/models/encode:explain", 404),
        ("GET", "/docs", 404),
        ("GET", ENCODE, 405),
    ],
)
def test_what_is_not_offered_is_not_there(server: Server, method: str, path: str, status: int) -> None:
    found, text = server.post(path, None if method == "GET" else b"{}")
    assert found == status
    assert json.loads(text)["error"]
    assert server.get("/v2/models/encode/ready")[0] == 200


def test_names_that_clients_make_up_make_no_series(server: Server) -> None:
    series = 'coda_requests_total{code="NOT_FOUND",model="other",protocol="http"}'
    before = server.metric(series)
    server.post("/v2/models/made-up-name/infer", b"{}")
    assert server.metric(series) == before + 1
    assert "made-up" not in server.get("/metrics")[1]


def test_a_compressed_body_is_415(server: Server) -> None:
    status, text = server.post(DECODE, zlib.compress(ids_body()), Content_Encoding="gzip")
    assert (status, "compressed" in text) == (415, True)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_413(server: Server, chunked: bool) -> None:
    connection = http.client.HTTPConnection(server.http, timeout=LIMIT)
    content = b" " * (2**20 + 1)
    connection.request("POST", DECODE, iter([content]) if chunked else content, encode_chunked=chunked)
    with connection.getresponse() as response:
        assert (response.status, "more than the limit of 1048576" in json.loads(response.read())["error"]) == (
            413,
            True,
        )
    connection.close()


@pytest.mark.parametrize(
    "head",
    [b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 70_000, b"GET /" + b"y" * 70_000, b"GET / HTTP/1.1" + b"\r\nx: y" * 20_000],
)
def test_giant_headers_are_400_and_end_the_connection(server: Server, head: bytes) -> None:
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as connection:
        # One byte more than may be, and none that the server would leave unread: that would cut its answer off.
        connection.sendall(head[: MAX_HEADER_BYTES + 1])
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_giant_headers_behind_a_body_end_the_connection(server: Server) -> None:
    host, _, port = server.http.rpartition(":")
    head = f"POST {DECODE} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n ".encode()
    active = "coda_requests_active"
    with socket.create_connection((host, int(port)), LIMIT) as connection:
        connection.sendall(head)
        server.wait_for_metric(active, 1)
        connection.sendall(b"\r\n0\r\nx: ".ljust(MAX_HEADER_BYTES + 1, b"y"))
        assert connection.recv(12) == b"HTTP/1.1 400"
    server.wait_for_metric(active, 0)


def test_a_client_that_hangs_up_is_let_go(server: Server) -> None:
    series = 'coda_errors_total{kind="client_gone"}'
    before = server.metric(series)
    host, _, port = server.http.rpartition(":")
    with socket.create_connection((host, int(port)), LIMIT) as connection:
        connection.sendall(b"POST " + DECODE.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n123")
        server.wait_for_metric("coda_requests_active", 1)
    server.wait_for_metric(series, before + 1)
    server.wait_for_metric("coda_requests_active", 0)


@pytest.mark.parametrize(
    ("model", "tensor", "raw", "code", "words"),
    [
        ("decode", {"name": "ids", "datatype": "INT32", "shape": [1, 1]}, [b"12345"], "INVALID_ARGUMENT", "5 bytes"),
        ("decode", {"name": "ids", "datatype": "INT32", "shape": [1, -1]}, [b"1234"], "INVALID_ARGUMENT", "from 0"),
        ("decode", {"name": "ids", "datatype": "INT32", "shape": [2**62, 4]}, [b""], "INVALID_ARGUMENT", "from 0"),
        ("decode", {"name": "ids", "datatype": "WRONG", "shape": [1, 1]}, [b"1234"], "INVALID_ARGUMENT", "datatype"),
        ("decode", {"name": "ids", "datatype": "INT32", "shape": [1, 1]}, [], "INVALID_ARGUMENT", "0 numbers"),
        ("decode", {"name": "x", "datatype": "INT32", "shape": [1, 1]}, [bytes(4)], "INVALID_ARGUMENT", "'x'"),
        ("decode", {"name": "ids", "datatype": "INT32", "shape": [1, 1]}, [b"\xff" * 4], "INVALID_ARGUMENT", "is -1"),
        ("encode", {"name": "image", "datatype": "BYTES", "shape": [1]}, [b"\xff" * 4], "INVALID_ARGUMENT", "ends at"),
        ("nothing", {"name": "x", "datatype": "INT32", "shape": [1, 1]}, [bytes(4)], "NOT_FOUND", "there is no model"),
        (
            "encode",
            {"name": "image", "datatype": "UINT8", "shape": [20, 400, 400, 3]},
            [bytes(9_600_000)],
            "RESOURCE_EXHAUSTED",
            "larger than max",
        ),
    ],
)
def test_wrong_grpc_requests_have_the_right_status(
    channel: grpc.Channel, model: str, tensor: dict[str, Any], raw: list[bytes], code: str, words: str
) -> None:
    found, details = infer(channel, model, tensor, *raw)
    assert (found, words in details) == (code, True), details


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x2a\x00" * 1000, "more than 64 fields"),
        (b"\x0a\xff", "it is truncated"),
        (b"\x08\x01", "field 1 is unknown"),
        (b"\x0a\x06decode\x2a\x01\xff", "is not a ModelInferRequest"),
        (b"\x0a\x06decode\x1a\x01\xff", "is not a ModelInferRequest"),
    ],
)
def test_grpc_messages_that_are_no_requests_are_rejected(channel: grpc.Channel, message: bytes, words: str) -> None:
    stub = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", bytes, bytes)
    with pytest.raises(grpc.RpcError) as error:
        stub(message, timeout=LIMIT)
    assert (error.value.code().name, words in error.value.details()) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize(
    ("method", "request_", "answer", "code"),
    [
        ("RepositoryModelLoad", messages.RepositoryModelLoadRequest(model_name="encode"), "Load", "UNIMPLEMENTED"),
        ("RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name="encode"), "Load", "UNIMPLEMENTED"),
        ("ModelMetadata", messages.ModelMetadataRequest(name="nothing"), "Metadata", "NOT_FOUND"),
        ("ModelReady", messages.ModelReadyRequest(name="nothing"), "Ready", "NOT_FOUND"),
    ],
)
def test_grpc_calls_that_are_not_offered(
    channel: grpc.Channel, server: Server, method: str, request_: Any, answer: str, code: str
) -> None:
    answers = {"Load": messages.RepositoryModelLoadResponse, "Ready": messages.ModelReadyResponse}
    assert call(channel, method, request_, answers.get(answer, messages.ModelMetadataResponse))[0] == code
    assert server.get("/v2/models/encode/ready")[0] == 200


def test_a_line_of_the_log_cannot_be_forged(server: Server) -> None:
    forged = 'x"}\n{"message": "forged"}'
    assert server.post(DECODE, json.dumps({"inputs": [IDS], "id": forged}).encode())[0] == 200
    server.wait_for("request", id=forged)
    assert not [line for line in server.lines if line["message"] == "forged"]
    assert not server.other_output


def test_pixels_are_never_logged(server: Server) -> None:
    array = np.full((1, 32, 32, 3), 77, np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(array.shape), "data": array.ravel().tolist()}
    server.post(ENCODE, json.dumps({"inputs": [tensor], "id": "quiet"}).encode())
    assert "77, 77" not in json.dumps(server.wait_for("request", id="quiet"))
