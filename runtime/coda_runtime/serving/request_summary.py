"""What a gRPC request brings, read from the outer layer of its bytes before protobuf makes objects of them.

Two bytes can be an empty tensor, of which protobuf makes a hundred: a message of 32 MiB would become gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..io.counts import count
from ..io.protobuf_wire import LENGTH_DELIMITED, WireError, read_fields
from .errors import RequestError
from .options import MAX_TEXT_BYTES

MAX_FIELDS = 64
"""A request has one for its model, its id, each tensor and each parameter."""
_MODEL, _RAW = 1, 7  # fields of ModelInferRequest, which are all length-delimited


@dataclass(frozen=True)
class RequestSummary:
    """The model's name, and the bytes that are no raw contents: names, shapes, and numbers one by one."""

    model: str = ""
    text_bytes: int = 0
    problem: str = ""

    def check(self) -> None:
        """Raise InputError for what is no request, RefusedError for one that has too much beside raw contents."""
        if self.problem:
            raise InputError(f"the message is not a ModelInferRequest that is supported here: {self.problem}")
        if self.text_bytes > MAX_TEXT_BYTES:
            raise RequestError(
                "too_large",
                f"the contents have {count(self.text_bytes, 'byte')}, more than the limit of {MAX_TEXT_BYTES:,}; send "
                "raw_input_contents",
            )


def summarise(message: bytes) -> RequestSummary:
    """Return what is known of a serialised ModelInferRequest. Raises nothing: see `RequestSummary.check`."""
    model, raw_bytes = "", 0
    try:
        for count, (field, wire, start, stop) in enumerate(read_fields(message, 0, len(message), "a request"), 1):
            if count > MAX_FIELDS:
                return RequestSummary(model, problem=f"it has more than {MAX_FIELDS} fields")
            if wire != LENGTH_DELIMITED:
                return RequestSummary(model, problem=f"field {field} is unknown")
            if field == _MODEL:
                model = message[start : min(stop, start + 100)].decode(errors="replace")
            elif field == _RAW:
                raw_bytes += stop - start
    except WireError as error:
        return RequestSummary(model, problem=str(error))
    return RequestSummary(model, len(message) - raw_bytes)
