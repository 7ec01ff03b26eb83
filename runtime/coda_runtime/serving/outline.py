"""What a gRPC request brings, read from the outer layer of its bytes before protobuf makes objects of them.

Two bytes can be an empty tensor, of which protobuf makes a hundred: a message of 32 MiB would become gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .options import MAX_TEXT_BYTES
from .refusals import RefusedError

MOST_FIELDS = 64
"""A request has one for its model, its id, each tensor and each parameter."""
_MODEL, _RAW = 1, 7  # fields of ModelInferRequest
_LENGTH_DELIMITED = 2  # the wire type of all of them


@dataclass(frozen=True)
class Outline:
    """The model's name, and the bytes that are no raw contents: names, shapes, and numbers one by one."""

    model: str = ""
    text_bytes: int = 0
    problem: str = ""

    def check(self) -> None:
        """Raise InputError for what is no request, RefusedError for one that has too much beside raw contents."""
        if self.problem:
            raise InputError(f"the message is no ModelInferRequest that is taken here: {self.problem}")
        if self.text_bytes > MAX_TEXT_BYTES:
            raise RefusedError(
                "too_large",
                f"the contents have {self.text_bytes} bytes, and {MAX_TEXT_BYTES} is the most; send raw_input_contents",
            )


def outline(message: bytes) -> Outline:
    """The outline of a serialised ModelInferRequest. Raises nothing: see `Outline.check`."""
    model, raw_bytes, start = "", 0, 0
    for _ in range(MOST_FIELDS + 1):
        if start == len(message):
            return Outline(model, len(message) - raw_bytes)
        try:
            tag, start = _number(message, start)
            length, start = _number(message, start)
        except IndexError:
            return Outline(model, problem="it is cut")
        if tag & 7 != _LENGTH_DELIMITED or start + length > len(message):
            return Outline(model, problem=f"field {tag >> 3} is none of its")
        if tag >> 3 == _MODEL:
            model = message[start : start + min(length, 100)].decode(errors="replace")
        elif tag >> 3 == _RAW:
            raw_bytes += length
        start += length
    return Outline(model, problem=f"it has more than {MOST_FIELDS} fields")


def _number(message: bytes, start: int) -> tuple[int, int]:
    """A varint of up to 10 bytes, and where it ends. Raises IndexError at the message's end."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, start
