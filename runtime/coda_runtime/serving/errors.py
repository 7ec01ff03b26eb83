"""What a client is told when its request is not answered: one table of kinds, statuses and codes for both protocols."""

from __future__ import annotations

import logging
from typing import NamedTuple
from uuid import uuid4

from ..errors import ClosedError, CodaError, DeviceMemoryError, InputError
from .batching import QueueFullError

_LOG = logging.getLogger("coda.serve")
_MAX_LENGTH = 500  # characters of a message, which may quote the client


class Kind(NamedTuple):
    """A kind of error: HTTP status, gRPC status, and whether the same request may be sent again."""

    status: int
    code: str
    again: bool = False


KINDS = {
    "invalid": Kind(400, "INVALID_ARGUMENT"),
    "unknown": Kind(404, "NOT_FOUND"),
    "slow_body": Kind(408, "DEADLINE_EXCEEDED"),
    "slow_reader": Kind(408, "DEADLINE_EXCEEDED"),
    "too_large": Kind(413, "RESOURCE_EXHAUSTED"),
    "content_encoding": Kind(415, "INVALID_ARGUMENT"),
    "client_gone": Kind(499, "CANCELLED"),
    "engine": Kind(500, "INTERNAL"),
    "internal": Kind(500, "INTERNAL"),
    "busy": Kind(503, "RESOURCE_EXHAUSTED", again=True),
    "memory": Kind(503, "RESOURCE_EXHAUSTED", again=True),
    "unavailable": Kind(503, "UNAVAILABLE", again=True),
    "timeout": Kind(504, "DEADLINE_EXCEEDED"),
}
"""Every kind of error; the keys are the label `kind` of coda_errors_total."""


class RequestError(CodaError):
    """A request that is not answered, and what its client is told. `kind` is a key of KINDS."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message if len(message) <= _MAX_LENGTH else f"{message[:_MAX_LENGTH]} ...")
        self.kind = kind
        self.status, self.code, self.again = KINDS[kind]


def slow_reader() -> RequestError:
    """Return the error of an answer that its client did not read in time. It is for the log: nobody can be told."""
    return RequestError("slow_reader", "the client did not read its answer in time, so its connection was ended")


def request_error(error: Exception) -> RequestError:
    """Return what an exception means to the client. Internals of the server are logged under an id, and not told."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, InputError):
        return RequestError("invalid", str(error))
    if isinstance(error, QueueFullError):
        return RequestError("busy", str(error))
    if isinstance(error, ClosedError):
        return RequestError("unavailable", str(error))
    kind, words = "internal", "internal error"
    if isinstance(error, DeviceMemoryError):
        kind, words = "memory", "the device has no memory for this request; send fewer images, or send it again later"
    elif isinstance(error, CodaError):
        kind, words = "engine", "the engine failed"
    number = uuid4().hex[:12]
    _LOG.error(
        "%s: %s", type(error).__name__, error, exc_info=error, extra={"fields": {"error_id": number, "kind": kind}}
    )
    return RequestError(kind, f"{words} (error {number} in the server's log)")
