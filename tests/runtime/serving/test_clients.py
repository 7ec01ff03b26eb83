"""tritonclient, as it comes from PyPI, against a server process: ids and images as the runtime in this process has."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from PIL import Image

import coda_runtime
from coda_runtime import __version__
from tests.runtime import tiny
from tests.runtime.serving.process import Server, body

CLIENTS = 16
PROTOCOLS: dict[str, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


class Client:
    """Either of tritonclient's clients; one for each thread."""

    def __init__(self, protocol: str, server: Server) -> None:
        self._library = PROTOCOLS[protocol]
        self.inner = self._library.InferenceServerClient(getattr(server, protocol))

    def infer(self, model: str, values: NDArray[Any], **request: Any) -> Any:
        names = {"encode": ("image", "ids"), "decode": ("ids", "image")}
        name, output = names[model]
        datatype = {"u": "UINT8", "i": "INT32", "O": "BYTES"}[values.dtype.kind]
        tensor = self._library.InferInput(name, list(values.shape), "INT64" if values.dtype == np.int64 else datatype)
        tensor.set_data_from_numpy(values)
        return self.inner.infer(model, [tensor], **request).as_numpy(output)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(scope="module")
def tok(sealed: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(sealed, threads=1) as tokenizer:
        yield tokenizer


@pytest.fixture
def client(protocol: str, server: Server) -> Iterator[Client]:
    out = Client(protocol, server)
    yield out
    out.close()


def file_of(image: NDArray[np.uint8], kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind)
    return out.getvalue()


def as_tensor(files: list[bytes]) -> NDArray[np.object_]:
    out = np.empty(len(files), np.object_)
    out[:] = files
    return out


@each_protocol
def test_health_and_metadata(client: Client, server: Server) -> None:
    inner = client.inner
    assert inner.is_server_live()
    assert inner.is_server_ready()
    assert inner.is_model_ready("encode")
    assert inner.is_model_ready("decode")
    as_json = {} if isinstance(inner, tritonclient.http.InferenceServerClient) else {"as_json": True}
    about = inner.get_server_metadata(**as_json)
    assert (about["name"], about["version"], about["extensions"]) == (
        "coda-runtime",
        __version__,
        ["binary_tensor_data"],
    )
    encode, decode = (inner.get_model_metadata(model, **as_json) for model in ("encode", "decode"))

    def tensors(about: dict[str, Any], side: str) -> list[tuple[str, str, list[int]]]:
        return [(t["name"], t["datatype"], list(map(int, t["shape"]))) for t in about[side]]

    assert tensors(encode, "inputs") == [("image", "UINT8", [-1, -1, -1, 3])]
    assert tensors(encode, "outputs") == [("ids", "INT32", [-1, tiny.TOKENS])]
    assert tensors(decode, "inputs") == [("ids", "INT32", [-1, -1])]
    assert tensors(decode, "outputs") == [("image", "UINT8", [-1, tiny.SIZE, tiny.SIZE, 3])]


@each_protocol
def test_many_clients_at_a_time_get_what_the_runtime_computes(
    protocol: str, server: Server, tok: coda_runtime.Tokenizer
) -> None:
    def ask(number: int) -> list[bool]:
        client = Client(protocol, server)
        try:
            # 1 to 12 images, so that requests are joined and, over 8, split.
            images = tiny.photos(1 + number * 5 % 12, seed=number)
            expected = tok.encode(images)
            prefix = expected[:, : (1, 5, 21)[number % 3]]
            return [
                np.array_equal(client.infer("encode", images), expected),
                np.array_equal(client.infer("decode", prefix), tok.decode(prefix)),
                np.array_equal(client.infer("encode", images[:1, :30, :20]), tok.encode(images[:1, :30, :20])),
            ]
        finally:
            client.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert [all(same) for same in pool.map(ask, range(CLIENTS))] == [True] * CLIENTS


@each_protocol
def test_files_give_the_ids_that_the_runtime_gives_for_them(
    client: Client, tok: coda_runtime.Tokenizer, tmp_path: Path
) -> None:
    pictures = [tiny.photos(1, 40 + number, 60 - number, seed=number)[0] for number in range(4)]
    files = [file_of(picture, kind) for picture, kind in zip(pictures, ["JPEG", "PNG"] * 2, strict=True)]
    paths = [tmp_path / f"{number}.bin" for number in range(4)]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    np.testing.assert_array_equal(client.infer("encode", as_tensor(files)), tok.encode(paths))


@each_protocol
def test_ids_may_be_int64(client: Client, tok: coda_runtime.Tokenizer) -> None:
    ids = tok.encode(tiny.photos(2))
    np.testing.assert_array_equal(client.infer("decode", ids.astype(np.int64)), tok.decode(ids))


@each_protocol
def test_the_id_of_a_request_comes_back(client: Client, server: Server) -> None:
    client.infer("decode", np.zeros((1, 1), np.int32), request_id=f"my-{client.inner.__module__}")
    line = server.wait_for("request", id=f"my-{client.inner.__module__}")
    assert (line["model"], line["images"], line["status"]) == ("decode", 1, "OK")
    assert {"queue_ms", "run_ms", "total_ms"} <= line.keys()


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_are_binary_or_json_as_asked(server: Server, tok: coda_runtime.Tokenizer, binary: bool) -> None:
    client = Client("http", server)
    try:
        asked = tritonclient.http.InferRequestedOutput("ids", binary_data=binary)
        images = tiny.photos(3)
        np.testing.assert_array_equal(client.infer("encode", images, outputs=[asked]), tok.encode(images))
    finally:
        client.close()


def test_json_alone_is_enough(server: Server, tok: coda_runtime.Tokenizer) -> None:
    images = tiny.photos(2)
    status, text = server.post("/v2/models/encode/infer", body(images, "image", "UINT8"))
    answer = json.loads(text)
    assert status == 200
    assert answer["id"]
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("ids", "INT32", [2, tiny.TOKENS])
    assert output["data"] == tok.encode(images).ravel().tolist()


def test_a_body_may_come_in_chunks(server: Server, tok: coda_runtime.Tokenizer) -> None:
    import http.client

    images = tiny.photos(2)
    content = body(images, "image", "UINT8")
    connection = http.client.HTTPConnection(server.http)
    parts: Callable[[], Iterator[bytes]] = lambda: (content[i : i + 999] for i in range(0, len(content), 999))  # noqa: E731
    connection.request("POST", "/v2/models/encode/infer", parts(), encode_chunked=True)
    with connection.getresponse() as response:
        assert json.loads(response.read())["outputs"][0]["data"] == tok.encode(images).ravel().tolist()
    connection.close()


def test_curl_can_send_a_file(server: Server, tok: coda_runtime.Tokenizer, tmp_path: Path) -> None:
    """As docs/serving.md builds the body: JSON, the length in 4 bytes, the file."""
    picture = tiny.photos(1, 50, 40)[0]
    file = file_of(picture, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(file)
    size = {"binary_data_size": len(file) + 4}
    head = json.dumps({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": size}]}).encode()
    content = head + struct.pack("<I", len(file)) + file
    status, text = server.post("/v2/models/encode/infer", content, Inference_Header_Content_Length=str(len(head)))
    assert status == 200
    assert json.loads(text)["outputs"][0]["data"] == tok.encode([tmp_path / "photo.jpg"]).ravel().tolist()


def test_metrics_count_what_was_done(server: Server) -> None:
    done, images = 'coda_requests_total{code="OK",model="decode",protocol="http"}', 'coda_images_total{model="decode"}'
    before = server.metric(done), server.metric(images)
    client = Client("http", server)
    client.infer("decode", np.zeros((3, 1), np.int32))
    client.close()
    server.wait_for_metric(done, before[0] + 1)
    server.wait_for_metric(images, before[1] + 3)  # counted after the answer is given
    for name in ("coda_batch_size", "coda_run_seconds", "coda_queue_seconds", "coda_request_seconds"):
        assert server.metric(f'{name}_count{{model="decode"}}') > 0
    assert server.metric("coda_queue_images") == 0
