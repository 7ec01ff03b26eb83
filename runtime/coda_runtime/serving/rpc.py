"""The protocol over gRPC: kserve's service, with our errors as statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ..errors import InputError
from .admission import Admission, Record
from .errors import request_error
from .kserve_parts import InferenceServicer, Plane, add_GRPCInferenceServiceServicer_to_server, messages
from .options import SMALL_TEXT_BYTES, ServeOptions
from .request_summary import RequestSummary, summarise
from .wire import Request, request_from_grpc

T = TypeVar("T")
_UNREAD = tuple(
    f"/inference.GRPCInferenceService/{call}" for call in ("ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload")
)
_ROOM = 2**20  # bytes of a message beside its tensors
_SPARE_CALLS = 16  # of health and metadata, when as many inference requests as may be are under way
_LONGEST_CONNECTION_MS = 600_000  # a client that never sends what it announced is cut off then


class Service(InferenceServicer):  # type: ignore[misc] # kserve has no types
    """The calls of GRPCInferenceService. Loading and unloading of models is not offered."""

    def __init__(self, plane: Plane, admission: Admission, pool: ThreadPoolExecutor) -> None:
        super().__init__(plane, None)
        self._plane, self._admission, self._pool = plane, admission, pool

    async def ModelInfer(self, request: bytes, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Answer one inference request, a serialised ModelInferRequest."""

        async def answer() -> Any:
            about = summarise(request)

            async def work(record: Record) -> Any:
                about.check()
                self._plane.get_model_from_registry(about.model)
                return await self._admission.in_time(self._infer(request, about, record))

            return await self._admission.take("grpc", about.model, work)

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
            response, _ = await self._plane.infer(about.model, asked)
        array = response.array
        output = {"name": response.output, "datatype": response.datatype, "shape": array.shape}
        return messages.ModelInferResponse(
            id=response.id, model_name=response.model, outputs=[output], raw_output_contents=[array.tobytes()]
        )


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


class _Unread(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Hands on as bytes what can hold much: grpc would read it before anyone could look at what is in it."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if details.method not in _UNREAD:
            return handler
        return grpc.unary_unary_rpc_method_handler(handler.unary_unary, response_serializer=handler.response_serializer)


def grpc_server(service: Service, options: ServeOptions) -> Any:
    """Return a grpc.aio server without a port yet."""
    server = grpc.aio.server(
        interceptors=[_Unread()],
        options=[
            ("grpc.max_receive_message_length", options.max_request_bytes + _ROOM),
            ("grpc.max_send_message_length", -1),  # what we answer is bounded by what was asked
            ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
            ("grpc.max_connection_age_ms", _LONGEST_CONNECTION_MS),
            ("grpc.max_connection_age_grace_ms", round(options.timeout * 1e3)),
        ],
        maximum_concurrent_rpcs=options.max_requests + _SPARE_CALLS,
    )
    add_GRPCInferenceServiceServicer_to_server(service, server)
    return server
