"""The protocol over gRPC: kserve's service, with our errors as statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ..errors import InputError
from ..io.protobuf_wire import LENGTH_DELIMITED, WireError, read_fields
from .admission import Admission, Record
from .calls import Calls
from .errors import request_error
from .kserve_parts import InferenceServicer, Plane, add_GRPCInferenceServiceServicer_to_server, messages
from .options import IDLE_SECONDS, MAX_CONNECTIONS, SMALL_TEXT_BYTES, ServeOptions
from .request_summary import RequestSummary, summarise
from .waits import Waits
from .wire import Request, request_from_grpc

T = TypeVar("T")
_SERVICE = "inference.GRPCInferenceService"
_UNREAD = tuple(f"/{_SERVICE}/{call}" for call in ("ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload"))
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse
_MAX_NAME = 100  # characters of a name that a client sent
_ROOM = 2**20  # bytes of a message beside its tensors
_SPARE_CALLS = 16  # of health and metadata, when as many inference requests as may be are under way
_LONGEST_CONNECTION_MS = 600_000


class Service(InferenceServicer):  # type: ignore[misc] # kserve has no types
    """The calls of GRPCInferenceService. Loading and unloading of models is not offered."""

    def __init__(self, plane: Plane, admission: Admission, pool: ThreadPoolExecutor) -> None:
        super().__init__(plane, None)
        self.plane, self._admission, self._pool = plane, admission, pool

    @property
    def waits(self) -> Waits:
        """Of inference requests, for their clients."""
        return self._admission.waits

    async def ModelInfer(self, request: bytes, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Answer one inference request, a serialised ModelInferRequest."""

        async def answer() -> Any:
            about = summarise(request)

            async def work(record: Record) -> Any:
                about.check()
                self.plane.get_model_from_registry(about.model)
                return await self._admission.in_time(self._infer(request, about, record))

            return await self._admission.take("grpc", about.model, work, until=asyncio.current_task())

        return await _or_abort(answer(), context)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return whether a model is ready."""
        return await _or_abort(super().ModelReady(request, context), context)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the inputs and outputs of a model."""
        return await _or_abort(super().ModelMetadata(request, context), context)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> None:  # noqa: N802
        """Refuse: anyone who can reach the port could stop the service."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "models are loaded when the server starts, and only then")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> None:  # noqa: N802
        """Refuse, as `RepositoryModelLoad` does."""
        await self.RepositoryModelLoad(request, context)

    async def _infer(self, request: bytes, about: RequestSummary, record: Record) -> messages.ModelInferResponse:
        async with self._admission.room_for_text(about.text_bytes):
            if about.text_bytes <= SMALL_TEXT_BYTES:
                asked = _read(request)
            else:  # there may be millions of numbers to make a list of
                asked = await asyncio.get_running_loop().run_in_executor(self._pool, _read, request)
            record.id = asked.id
            response, _ = await self.plane.infer(about.model, asked)
        array = response.array
        output = {"name": response.output, "datatype": response.datatype, "shape": array.shape}
        return messages.ModelInferResponse(
            id=response.id, model_name=response.model, outputs=[output], raw_output_contents=[array.tobytes()]
        )


async def _check_health(plane: Plane, request: bytes, context: Any) -> bytes:
    """Answer a probe of grpc.health.v1, whose two messages have one field each."""
    try:
        fields = list(read_fields(request, 0, len(request), "a HealthCheckRequest"))
    except WireError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the message is not a HealthCheckRequest: {error}")
    names = [request[start:stop] for field, wire, start, stop in fields if (field, wire) == (1, LENGTH_DELIMITED)]
    name = names[-1].decode(errors="replace") if names else ""
    if name not in ("", _SERVICE):
        words = f"there is no service {name[:_MAX_NAME]!r}; there are {_SERVICE!r} and '', the whole server"
        await context.abort(grpc.StatusCode.NOT_FOUND, words)
    return _SERVING if plane.is_ready else _NOT_SERVING


def _health_service(plane: Plane) -> grpc.GenericRpcHandler:
    """Return grpc.health.v1.Health without Watch, which would hold a call for each client that watches."""
    check = grpc.unary_unary_rpc_method_handler(partial(_check_health, plane))
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


def _read(request: bytes) -> Request:
    try:
        return request_from_grpc(messages.ModelInferRequest.FromString(request))
    except DecodeError as error:
        raise InputError(f"the message is not a ModelInferRequest ({error})") from error


async def _or_abort(call: Awaitable[T], context: Any) -> T:
    """Return the call's answer, or its error as a gRPC status."""
    try:
        return await call
    except Exception as error:  # all of them mean something to the client
        failure = request_error(error)
    return await context.abort(grpc.StatusCode[failure.code], str(failure))  # type: ignore[no-any-return]


def grpc_server(service: Service, options: ServeOptions) -> Any:
    """Return a grpc.aio server without a port yet."""
    server = grpc.aio.server(
        interceptors=[Calls(options.max_requests + _SPARE_CALLS, options.timeout, _UNREAD, service.waits)],
        options=[
            ("grpc.max_receive_message_length", options.max_request_bytes + _ROOM),
            ("grpc.max_send_message_length", -1),  # what we answer is bounded by what was asked
            ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
            ("grpc.max_concurrent_streams", (options.max_requests + 1) // 2),  # of one client
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
            ("grpc.server_handshake_timeout_ms", round(options.timeout * 1e3)),
            ("grpc.max_connection_age_ms", _LONGEST_CONNECTION_MS),
            ("grpc.max_connection_age_grace_ms", round(options.timeout * 1e3)),
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(service, server)
    server.add_generic_rpc_handlers((_health_service(service.plane),))
    return server
