from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages

from coda_runtime.errors import ImageError, InputError
from coda_runtime.serving.errors import RequestError
from coda_runtime.serving.options import MAX_TEXT_BYTES
from coda_runtime.serving.tensors import only_input, read_files, read_ids, read_pixels
from coda_runtime.serving.wire import Request, Response, request_from_grpc, request_from_http, response_to_http

MAX_ITEMS = 8
IDS = st_numpy.arrays(np.int32, st.tuples(st.integers(1, MAX_ITEMS), st.integers(1, 5)))
IMAGES = st_numpy.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.just(3)))


def http(tensor: dict[str, Any], raw: bytes | None = None, **fields: Any) -> Request:
    """A request with one input, whose content is `raw`, or in the JSON."""
    if raw is not None:
        tensor = tensor | {"parameters": {"binary_data_size": len(raw)} | tensor.get("parameters", {})}
    head = json.dumps({"inputs": [tensor], **fields}).encode()
    return request_from_http(head + (raw or b""), None if raw is None else str(len(head)))


def rpc(tensor: dict[str, Any], raw: bytes | None = None) -> Request:
    return request_from_grpc(
        messages.ModelInferRequest(
            model_name="encode", inputs=[tensor], raw_input_contents=[] if raw is None else [raw]
        )
    )


def packed(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


@given(IDS, st.sampled_from(["INT32", "INT64"]), st.sampled_from(["flat", "nested", "raw", "grpc", "grpc raw"]))
def test_ids_survive_every_way_of_sending_them(ids: NDArray[np.int32], datatype: str, way: str) -> None:
    tensor: dict[str, Any] = {"name": "ids", "datatype": datatype, "shape": list(ids.shape)}
    raw = ids.astype("<i4" if datatype == "INT32" else "<i8").tobytes()
    if way in ("raw", "grpc raw"):
        request = (http if way == "raw" else rpc)(tensor, raw)
    elif way == "grpc":
        field = "int_contents" if datatype == "INT32" else "int64_contents"
        request = rpc(tensor | {"contents": {field: ids.ravel().tolist()}})
    else:
        request = http(tensor | {"data": ids.ravel().tolist() if way == "flat" else ids.tolist()})
    np.testing.assert_array_equal(read_ids(only_input(request.inputs, "ids", ["INT32", "INT64"]), MAX_ITEMS), ids)


@given(IMAGES, st.sampled_from(["flat", "nested", "raw", "grpc", "grpc raw"]))
def test_images_survive_every_way_of_sending_them(images: NDArray[np.uint8], way: str) -> None:
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": list(images.shape)}
    if way in ("raw", "grpc raw"):
        request = (http if way == "raw" else rpc)(tensor, images.tobytes())
    elif way == "grpc":
        request = rpc(tensor | {"contents": {"uint_contents": images.ravel().tolist()}})
    else:
        request = http(tensor | {"data": images.ravel().tolist() if way == "flat" else images.tolist()})
    np.testing.assert_array_equal(read_pixels(only_input(request.inputs, "image", ["UINT8"]), MAX_ITEMS), images)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=MAX_ITEMS), st.sampled_from(["raw", "grpc", "grpc raw"]))
def test_files_survive_every_way_of_sending_them(files: list[bytes], way: str) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(files)]}
    if way == "grpc":
        request = rpc(tensor | {"contents": {"bytes_contents": files}})
    else:
        request = (http if way == "raw" else rpc)(tensor, packed(*files))
    assert read_files(only_input(request.inputs, "image", ["BYTES"]), MAX_ITEMS) == files


@given(IDS, st.booleans(), st.booleans())
def test_responses_are_json_or_binary_as_asked(ids: NDArray[np.int32], binary: bool, by_output: bool) -> None:
    tensor = {"name": "ids", "datatype": "INT32", "shape": [1, 1], "data": [0]}
    fields: dict[str, Any] = {"id": "7", "parameters": {"binary_data_output": binary != by_output}}
    if by_output:
        fields["outputs"] = [{"name": "ids", "parameters": {"binary_data": binary}}]
    request = http(tensor, **fields)
    response = Response("7", "encode", "ids", "INT32", ids)
    content, length = response_to_http(response, binary=request.wants_binary)
    assert (length is not None) == binary
    head = json.loads(content[:length])
    (output,) = head["outputs"]
    assert (head["id"], head["model_name"], output["shape"]) == ("7", "encode", list(ids.shape))
    found = np.frombuffer(content[length:], "<i4") if binary else np.array(output["data"])
    np.testing.assert_array_equal(found.reshape(ids.shape), ids)
    assert output.get("parameters") == ({"binary_data_size": ids.nbytes} if binary else None)


def test_a_request_without_an_id_gets_one() -> None:
    tensor = {"name": "ids", "datatype": "INT32", "shape": [1, 1]}
    numbers = {http(tensor, bytes(4)).id, http(tensor, bytes(4)).id, rpc(tensor, bytes(4)).id}
    assert len(numbers) == 3
    assert all(numbers)
    assert http(tensor, bytes(4), id="mine").id == "mine"


IDS_1 = {"name": "ids", "datatype": "INT32", "shape": [1, 1]}
IMAGE_1 = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3]}
FILES_1 = {"name": "image", "datatype": "BYTES", "shape": [1]}


def read(request: Request) -> object:
    tensor = only_input(request.inputs, request.inputs[0].name, ["INT32", "INT64", "UINT8", "BYTES"])
    reader: Any = {"UINT8": read_pixels, "BYTES": read_files}.get(tensor.datatype, read_ids)
    return reader(tensor, MAX_ITEMS)


@pytest.mark.parametrize(
    ("tensor", "raw", "words"),
    [
        (IMAGE_1 | {"shape": [2, 1, 1, 3]}, b"123", "3 bytes; UINT8 .2, 1, 1, 3. takes 6"),
        (IMAGE_1, b"1234", "4 bytes"),
        (IMAGE_1 | {"shape": [-1, 1, 1, -3]}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": [1, 2**31, 2**31, 3]}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": [8, 2**31 - 1, 2**31 - 1, 3]}, b"123", "takes 1106804643"),
        (IMAGE_1 | {"shape": [1.0, 1, 1, 3]}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": [True, 1, 1, 3]}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": "1113"}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": None}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": {"x": [1] * 1000}}, b"123", "whole numbers from 0"),
        (IMAGE_1 | {"shape": [1] * 1000}, b"123", "a shape of 1,000 numbers"),
        (IMAGE_1 | {"shape": [1, 1, 3]}, b"123", "add the batch axis"),
        (IMAGE_1 | {"shape": [1, 3, 1, 1]}, b"123", "channels first"),
        (IMAGE_1 | {"shape": [0, 1, 1, 3]}, b"", "at least one pixel"),
        (IMAGE_1 | {"shape": [1, 0, 1, 3]}, b"", "at least one pixel"),
        (IMAGE_1 | {"shape": [MAX_ITEMS + 1, 1, 1, 3]}, b"", "one request may have 8"),
        (IDS_1 | {"shape": [1]}, b"1234", "add the batch axis"),
        (IDS_1 | {"shape": [1, 0]}, b"", "at least one token"),
        (IDS_1, b"12345", "5 bytes"),
        (IDS_1 | {"datatype": "FP32"}, b"1234", "datatype 'FP32'; expected"),
        (IDS_1 | {"datatype": "XYZ"}, b"1234", "datatype 'XYZ'; expected"),
        (FILES_1, b"", "0 elements"),
        (FILES_1, b"\x01", "ends at byte 5, and there are 1"),
        (FILES_1, b"\xff\xff\xff\xffx", "ends at byte 4294967299, and there are 5"),
        (FILES_1, packed(b"a", b"b"), "1 element in 5 of its 10 bytes"),
        (FILES_1 | {"shape": [2]}, packed(b"a"), "1 element in 5 of its 5 bytes"),
        (FILES_1 | {"shape": [0]}, b"", "empty"),
        (FILES_1 | {"shape": [2**30]}, packed(b"a"), "one request may have 8"),
    ],
)
def test_raw_tensors_that_lie_are_rejected(tensor: dict[str, Any], raw: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(http(tensor, raw))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([1.5], "not INT32"),
        (["1"], "not INT32"),
        ([True], "not INT32"),
        ([2**31], "not INT32"),
        ([2**70], "not INT32"),
        ([None], "not INT32"),
        ([], "has 0 numbers"),
        ([1, 2], "has 2 numbers"),
        ([[1], [2]], "2 lists of numbers, and its shape says .1, 1."),
        ([[1, 2]], "not nested as its shape says"),
        ([[1], 2], "2 lists"),
        ([[[1]]], "not INT32"),
        ([{}], "not INT32"),
        ("1", "no data"),
        (None, "neither data nor binary_data_size"),
    ],
)
def test_json_tensors_that_lie_are_rejected(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(http(IDS_1 | {"data": data}))


def test_deeply_nested_data_is_rejected() -> None:
    for depth in (70, 5000):
        text = json.dumps({"inputs": [IDS_1 | {"data": "X"}]}).replace('"X"', "[" * depth + "]" * depth)
        with pytest.raises(InputError):
            read(request_from_http(text.encode(), None))


@pytest.mark.parametrize("count", [1, 3001])
def test_text_in_place_of_numbers_takes_no_memory(count: int) -> None:
    """numpy would give each of 3001 elements the room of the longest one: 360 MB for a request of 40 kB."""
    request = http(IDS_1 | {"shape": [1, count], "data": ["x" * 30_000] + [""] * 3000})
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read(request)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", ["-1", "0x10", "1e2", "", "999999", "9" * 30, "²", "+5"])
def test_a_header_that_lies_about_the_json_is_rejected(length: str) -> None:
    with pytest.raises(InputError, match="Inference-Header-Content-Length is"):
        request_from_http(b'{"inputs":[]}', length)


@pytest.mark.parametrize("size", [-1, 4, 2**63, "3", 1.0, True])
def test_a_binary_size_that_lies_is_rejected(size: Any) -> None:
    with pytest.raises(InputError, match=r"binary_data_size .*, and 3 bytes are left|bytes follow"):
        http(IMAGE_1 | {"parameters": {"binary_data_size": size}}, b"123")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "the request is not a JSON object"),
        (b'{"inputs": 3}', "inputs is not a list"),
        (b'{"inputs": [3]}', "an entry of inputs is not"),
        (b'{"inputs": [{}]}', "name of a tensor is not text"),
        (b'{"inputs": [{"name": "ids", "datatype": 3}]}', "datatype of a tensor is not text"),
        (b'{"inputs": [], "id": 3}', "id is not text"),
        (b'{"inputs": [], "id": "' + b"i" * 201 + b'"}', "id has 201 characters"),
        (b'{"inputs": [], "parameters": 3}', "parameters of the request"),
        (b'{"inputs": [], "parameters": {"binary_data_output": 1}}', "neither true nor false"),
        (b'{"inputs": [], "parameters": {"sequence_id": 1}}', "'sequence_id', which this server does not"),
        (b'{"inputs": [], "outputs": [{"name": "ids", "parameters": {"classification": 1}}]}', "does not support"),
        (b'{"inputs": [' + b",".join([b"{}"] * 17) + b"]}", "up to 16"),
        (b'{"inputs": [{"name": "ids", "datatype": "INT32", "shape": [1, 1], "data": [NaN]}]}', "not JSON"),
    ],
)
def test_what_is_no_request_is_rejected(head: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        request_from_http(head, None)


def test_a_tensor_comes_once_in_one_way() -> None:
    with pytest.raises(InputError, match="data and binary_data_size"):
        http(IDS_1 | {"data": [1]}, b"1234")
    with pytest.raises(InputError, match="3 bytes follow"):
        request_from_http(b'{"inputs":[]}123', "13")
    with pytest.raises(InputError, match="BYTES in JSON"):
        read(http(FILES_1 | {"data": ["abc"]}))
    twice = messages.ModelInferRequest(inputs=[IDS_1, IDS_1], raw_input_contents=[b"1234"])
    with pytest.raises(InputError, match="2 inputs and raw contents for 1"):
        request_from_grpc(twice)
    both = messages.ModelInferRequest(
        inputs=[IDS_1 | {"contents": {"int_contents": [1]}}], raw_input_contents=[b"1234"]
    )
    with pytest.raises(InputError, match="raw_input_contents too"):
        request_from_grpc(both)


def test_grpc_contents_of_another_type_are_rejected() -> None:
    with pytest.raises(InputError, match="0 numbers"):
        read(rpc(IDS_1 | {"contents": {"fp32_contents": [1.0]}}))
    with pytest.raises(InputError, match="0 elements"):
        read(rpc(FILES_1))
    with pytest.raises(ImageError, match="empty"):
        read(rpc(FILES_1 | {"shape": [0]}))
    with pytest.raises(RequestError, match="no version '3'") as failure:
        request_from_grpc(messages.ModelInferRequest(model_version="3"))
    assert failure.value.status == 404
    with pytest.raises(InputError, match="shared_memory_region"):
        rpc(IDS_1 | {"parameters": {"shared_memory_region": {"string_param": "x"}}}, b"1234")


def test_numbers_as_text_are_bounded() -> None:
    with pytest.raises(RequestError, match="send tensors as binary data") as http_rejected:
        request_from_http(b" " * (MAX_TEXT_BYTES + 1), None)
    assert http_rejected.value.status == 413
