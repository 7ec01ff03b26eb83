"""Requests and responses between the wire and arrays: REST with binary tensors, and gRPC's messages.

kserve's own reading makes a Python list of every binary tensor and trusts each length; this does neither.
"""

from __future__ import annotations

import random
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import InputError
from ..io.counts import count, plural
from .errors import RequestError
from .options import MAX_TEXT_BYTES
from .tensors import Tensor

_UNSUPPORTED = ("shared_memory", "classification", "sequence_")
_MAX_TENSORS = 16
_MAX_ID_LENGTH = 200
_CONTENTS = {"UINT8": "uint_contents", "INT32": "int_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}


@dataclass(frozen=True)
class Request:
    """An inference request. `outputs` names what is asked for, and whether as binary; None leaves that to `binary`."""

    id: str
    inputs: Sequence[Tensor]
    outputs: Sequence[tuple[str, bool | None]] = ()
    binary: bool = False

    @property
    def wants_binary(self) -> bool:
        """Whether the answer over HTTP is to be binary."""
        return next((binary for _, binary in self.outputs if binary is not None), self.binary)


@dataclass(frozen=True)
class Response:
    """An inference response, with the one output that a model has."""

    id: str
    model: str
    output: str
    datatype: str
    array: npt.NDArray[Any]


def request_from_http(body: bytes, json_length: str | None) -> Request:
    """Read a REST request.

    Args:
        body: JSON, and behind it the binary tensors in the order of their inputs.
        json_length: the header Inference-Header-Content-Length; without it all of the body is JSON.

    Raises:
        InputError: something in it contradicts itself or is no V2 request.
        RequestError: the JSON is too large.
    """
    length = json_bytes(json_length, len(body))
    if length > MAX_TEXT_BYTES:
        raise RequestError(
            "too_large",
            f"the JSON has {count(length, 'byte')}, more than the limit of {MAX_TEXT_BYTES:,}; send tensors as binary "
            "data, which is also many times faster",
        )
    try:
        head = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"the request is not JSON ({error}); with binary data, give the JSON's length in "
            "Inference-Header-Content-Length"
        ) from error
    fields = _object(head, "the request")
    parameters = _parameters(fields, "the request")
    inputs: list[Tensor] = []
    rest = memoryview(body)[length:]
    for entry in _objects(fields.get("inputs"), "inputs"):
        tensor, rest = _http_input(entry, rest)
        inputs.append(tensor)
    if len(rest):
        raise InputError(
            f"{count(len(rest), 'byte')} {plural(len(rest), 'follows', 'follow')} that "
            f"{plural(len(rest), 'belongs', 'belong')} to no input; give their number in binary_data_size"
        )
    outputs = [
        (_text(entry, "name"), _parameters(entry, "an output").get("binary_data"))
        for entry in _objects(fields.get("outputs") or [], "outputs")
    ]
    number = fields.get("id")
    if number is not None and not isinstance(number, str):
        raise InputError("id is not text")
    return Request(_id(number), inputs, outputs, parameters.get("binary_data_output", False))


def request_from_grpc(message: Any) -> Request:
    """Read a gRPC ModelInferRequest. Raises InputError, RefusedError."""
    if message.model_version:
        raise RequestError("unknown", f"there is no version {message.model_version!r}; models have none here")
    if len(message.inputs) > _MAX_TENSORS or len(message.outputs) > _MAX_TENSORS:
        raise InputError(f"the request has more than {_MAX_TENSORS} inputs or outputs")
    raw = len(message.raw_input_contents)
    if raw and raw != len(message.inputs):
        raise InputError(f"the request has {count(len(message.inputs), 'input')} and raw contents for {raw}")
    if raw and any(tensor.HasField("contents") for tensor in message.inputs):
        raise InputError("an input has contents, and there are raw_input_contents too; send one of them")
    for about in (message, *message.inputs, *message.outputs):
        _check_parameters(about.parameters, "the request")
    contents = list(message.raw_input_contents) or [_grpc_contents(tensor) for tensor in message.inputs]
    inputs = [
        Tensor(tensor.name, tensor.datatype, list(tensor.shape), content)
        for tensor, content in zip(message.inputs, contents, strict=True)
    ]
    return Request(_id(message.id), inputs, [(output.name, None) for output in message.outputs])


def response_to_http(response: Response, *, binary: bool) -> tuple[bytes, int | None]:
    """Write a REST response, its output `binary` or in the JSON.

    Returns:
        The body, and the length of its JSON when binary tensors follow it, None otherwise.
    """
    array = np.ascontiguousarray(response.array)
    output: dict[str, Any] = {"name": response.output, "datatype": response.datatype, "shape": list(array.shape)}
    if binary:
        output["parameters"] = {"binary_data_size": array.nbytes}
    else:
        output["data"] = array.reshape(-1)
    head = orjson.dumps(
        {"id": response.id, "model_name": response.model, "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    if not binary:
        return head, None
    return b"".join([head, array.reshape(-1).view(np.uint8).data]), len(head)


def json_bytes(header: str | None, body: int) -> int:
    """Return the length of the JSON in a body, by Inference-Header-Content-Length if there is one.

    Raises InputError.
    """
    if header is None:
        return body
    if not (header.isascii() and header.isdigit() and len(header) < 19) or int(header) > body:
        raise InputError(
            f"Inference-Header-Content-Length is {header[:50]!r}; expected the JSON's length in bytes, up to the "
            f"body's, {body}"
        )
    return int(header)


def _http_input(entry: dict[str, Any], rest: memoryview) -> tuple[Tensor, memoryview]:
    """Return one input, and what follows its raw content in the body."""
    name, parameters = _text(entry, "name"), _parameters(entry, "an input")
    datatype, size, content = _text(entry, "datatype"), parameters.get("binary_data_size"), entry.get("data")
    if size is None and content is None:
        raise InputError(f"{name!r} has neither data nor binary_data_size")
    if size is not None:
        if content is not None:
            raise InputError(f"{name!r} has data and binary_data_size; send one of them")
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InputError(
                f"{name!r} has binary_data_size {reprlib.repr(size)}, and {count(len(rest), 'byte')} "
                f"{plural(len(rest), 'is', 'are')} left in the body"
            )
        content, rest = rest[:size], rest[size:]
    return Tensor(name, datatype, entry.get("shape"), content), rest


def _grpc_contents(tensor: Any) -> list[Any]:
    """Return the typed contents, which are empty where they are of another type than the tensor says."""
    field = _CONTENTS.get(tensor.datatype)
    return list(getattr(tensor.contents, field)) if field else []


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is not a JSON object")
    return value


def _objects(values: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(values, list) or len(values) > _MAX_TENSORS:
        raise InputError(f"{what} is not a list of up to {_MAX_TENSORS} JSON objects")
    return [_object(value, f"an entry of {what}") for value in values]


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise InputError(f"{key} of a tensor is not text")
    return value


def _parameters(entry: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = _object(entry.get("parameters") or {}, f"parameters of {what}")
    _check_parameters(parameters, what)
    for name in ("binary_data", "binary_data_output"):
        if not isinstance(parameters.get(name, False), bool):
            raise InputError(f"{name} is neither true nor false")
    return parameters


def _check_parameters(parameters: Mapping[str, Any], what: str) -> None:
    """Refuse what would change the answer; other parameters mean nothing here, as the protocol allows."""
    for name in parameters:
        if name.startswith(_UNSUPPORTED):
            raise InputError(f"{what} has the parameter {name!r}, which this server does not support; leave it out")


def _id(number: str | None) -> str:
    if number and len(number) > _MAX_ID_LENGTH:
        raise InputError(f"id has {count(len(number), 'character')}; the limit is {_MAX_ID_LENGTH}")
    return number or f"{random.getrandbits(128):032x}"  # uuid4 asks the system each time
