"""The protocol over HTTP: health, metadata, metrics, and inference with JSON or binary tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import uvicorn
from prometheus_client import REGISTRY, exposition
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from .admission import Admission, Record
from .errors import RequestError, request_error, slow_reader
from .kserve_parts import ModelNotReady, Plane, QuietServer, ServerNotReady, V2Endpoints
from .limits import (
    Connection,
    bounded_protocol,
    check_headers,
    connection_of,
    read_body,
    send_until_read,
    while_connected,
)
from .options import IDLE_SECONDS, SMALL_TEXT_BYTES, ServeOptions
from .wire import json_bytes, request_from_http, response_to_http

T = TypeVar("T")
_JSON_LENGTH = "Inference-Header-Content-Length"
_RETRY_AFTER = "1"  # seconds


class Inference:
    """The ASGI application of `POST /v2/models/{name}/infer`."""

    def __init__(self, plane: Plane, admission: Admission, options: ServeOptions, pool: ThreadPoolExecutor) -> None:
        self._plane, self._admission, self._options, self._pool = plane, admission, options, pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. It counts as under way until the client has read the answer."""
        request = Request(scope, receive)
        model: str = request.path_params["name"]

        connection = connection_of(scope)

        async def work(record: Record) -> None:
            with connection.kept():
                response = await self._answer(request, model, record, connection)
                leave = self._admission.waits.enter(connection.moved, connection.cut)
                try:
                    await send_until_read(send, response)
                finally:
                    leave()
            if connection.was_cut:
                raise slow_reader()

        try:
            await self._admission.take("http", model, work)
        except RequestError as error:
            if not connection.was_cut:
                await _error_response(error)(scope, receive, send)

    async def _answer(self, request: Request, model: str, record: Record, connection: Connection) -> Response:
        max_bytes = self._options.max_request_bytes
        self._plane.get_model_from_registry(model)  # before the body is read
        check_headers(request.headers, max_bytes)
        body = await self._admission.body_in_time(read_body(request.receive, max_bytes), connection.moved)
        answer = self._infer(body, request.headers.get(_JSON_LENGTH), model, record)
        return await self._admission.in_time(while_connected(request.receive, answer))

    async def _infer(self, body: bytes, json_length: str | None, model: str, record: Record) -> Response:
        text = json_bytes(json_length, len(body))
        async with self._admission.room_for_text(text):
            read = partial(request_from_http, body, json_length)
            asked = await self._run(read, small=text <= SMALL_TEXT_BYTES)
            record.id = asked.id
            response, _ = await self._plane.infer(model, asked)
        write = partial(response_to_http, response, binary=asked.wants_binary)
        content, length = await self._run(write, small=asked.wants_binary or response.array.size <= SMALL_TEXT_BYTES)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={_JSON_LENGTH: str(length)}, media_type="application/octet-stream")

    async def _run(self, call: Callable[[], T], *, small: bool) -> T:
        """Run in the pool, so that a large request keeps nobody else waiting."""
        return call() if small else await asyncio.get_running_loop().run_in_executor(self._pool, call)


class Doorway:
    """The ASGI application before all others: a slash at a path's end is nothing, and who stops says so."""

    def __init__(self, app: Starlette, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        path: str = scope["path"]
        if path.endswith("/"):  # Starlette would redirect, to whatever host the client named
            scope = {**scope, "path": path.rstrip("/") or "/"}

        async def last(message: Message) -> None:
            if self._admission.stopping and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, last)


def application(plane: Plane, admission: Admission, options: ServeOptions, pool: ThreadPoolExecutor) -> Doorway:
    """Return everything that is served over HTTP."""
    endpoints = V2Endpoints(plane)

    async def metadata(request: Request) -> Response:
        return _json(await endpoints.metadata())

    async def live(request: Request) -> Response:
        return _json(await endpoints.live())

    async def ready(request: Request) -> Response:
        return _json(await endpoints.ready())

    async def models(request: Request) -> Response:
        return _json(await endpoints.models())

    async def model_metadata(request: Request) -> Response:
        return _json(await endpoints.model_metadata(request.path_params["name"]))

    async def model_ready(request: Request) -> Response:
        return _json(await endpoints.model_ready(request.path_params["name"]))

    async def metrics(request: Request) -> Response:
        encode, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encode(REGISTRY), headers={"content-type": content_type})

    routes = [
        Route("/v2", metadata),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models", models),
        Route("/v2/models/{name}", model_metadata),
        Route("/v2/models/{name}/ready", model_ready),
        Route("/v2/models/{name}/infer", Inference(plane, admission, options, pool), methods=["POST"]),
        Route("/metrics", metrics),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        RequestError: _explained,
        ModelNotReady: _not_ready,
        ServerNotReady: _not_ready,
        Exception: _explained,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Doorway(app, admission)


def http_server(app: Doorway, options: ServeOptions) -> uvicorn.Server:
    """Return the server of `app`; its sockets are given to `serve`."""
    config = uvicorn.Config(
        app,
        http=bounded_protocol(options.timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=1,  # the drain is over by then
    )
    return QuietServer(config)


def _json(model: Any) -> Response:
    return JSONResponse(model.model_dump(exclude_none=True))


def _error_response(error: RequestError) -> Response:
    headers = {"Retry-After": _RETRY_AFTER} if error.again else None
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _explained(request: Request, error: Exception) -> Response:
    return _error_response(request_error(error))


async def _not_ready(request: Request, error: Exception) -> Response:
    return _error_response(RequestError("unavailable", "not ready; the server is loading the bundle, or stopping"))


async def _http_error(request: Request, error: HTTPException) -> Response:
    words = {404: "there is nothing at this path", 405: "method not allowed"}
    return JSONResponse({"error": words.get(error.status_code, error.detail)}, error.status_code, error.headers)
