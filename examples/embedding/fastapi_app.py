"""A web service of your own: one process, one tokenizer, as many requests at a time as are good for it.

pip install "./runtime[cpu,images]" fastapi uvicorn    # in the checkout
CODA_BUNDLE=bundle/ uvicorn fastapi_app:app
curl --data-binary @photo.jpg localhost:8000/encode                          # {"ids": [12, 7, ...]}
curl --fail --data '{"ids": [12]}' localhost:8000/decode --output photo.png  # a whole number of scales; here, one

What to watch for:
- Threads. The engines use every core for one run; runs side by side share them, so that more at once only lengthen
  each other. With `uvicorn --workers N` set CODA_THREADS to cores / N.
- Batches. What comes while a batch runs is the next one: TokenService of asyncio_service.py, which belongs beside this.
- Backpressure. Past MAX_REQUESTS it says 503 with Retry-After, before it reads the body; nothing waits without an end.
- The end. On SIGTERM uvicorn takes no more connections, finishes the requests it has, and the tokenizer is closed then.
- Warm-up. A first run allocates, and some engines compile: it is done before the server listens.
- Memory. Each worker process has its own weights. A request holds MAX_BYTES, then 4 bytes a pixel while it is decoded.
- Tokens. precision="auto" gives the same ids in every worker: leave it so where they are stored. Machines with other
  instruction sets may differ in a near tie, unless they load with reproducible=True.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import numpy as np
import numpy.typing as npt
from asyncio_service import TokenService
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.requests import ClientDisconnect

import coda_runtime
from coda_runtime.images import fit_bytes

MAX_BYTES = 16 << 20  # of one body
MAX_PIXELS = 25_000_000  # of one upload, by its header
AT_ONCE = 2  # uploads that are opened, and ids that are decoded
SECONDS = 30  # for a body to arrive
MAX_REQUESTS = 32  # inside at a time; the next is told to come back


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # In each worker, after uvicorn made the process: a tokenizer does not outlive a fork.
    threads = int(os.environ.get("CODA_THREADS", "0")) or None
    async with TokenService(os.environ["CODA_BUNDLE"], waiting=MAX_REQUESTS, threads=threads) as service:
        app.state.service, app.state.tok = service, service.tok
        app.state.threads = anyio.CapacityLimiter(AT_ONCE)
        app.state.requests = 0
        yield  # on SIGTERM uvicorn finishes the requests it has, then comes back here


app = FastAPI(lifespan=lifespan)


@app.exception_handler(coda_runtime.CodaError)
async def explain(_: Request, error: coda_runtime.CodaError) -> JSONResponse:
    if isinstance(error, coda_runtime.InputError):  # theirs: says what was found, expected, and what to do
        return JSONResponse({"detail": str(error)}, 422)
    logging.getLogger("uvicorn.error").error("%s", error)  # ours: paths and devices are nobody else's business
    return JSONResponse({"detail": "the tokenizer cannot run now"}, 503)


@asynccontextmanager
async def admitted(request: Request) -> AsyncIterator[bytes]:
    """The body of a request that there is room for, read up to MAX_BYTES, whatever its headers say."""
    state = request.app.state
    if state.requests >= MAX_REQUESTS:
        raise HTTPException(503, "busy", {"Retry-After": "1"})
    state.requests += 1
    try:
        body = bytearray()
        with anyio.fail_after(SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise HTTPException(413, f"at most {MAX_BYTES} bytes")
    except (TimeoutError, ClientDisconnect) as error:
        raise HTTPException(408, f"the body did not come in {SECONDS} seconds") from error
    else:
        yield bytes(body)
    finally:
        state.requests -= 1


@app.post("/encode")
async def encode(request: Request) -> dict[str, list[int]]:
    """A JPEG or PNG -> its ids."""
    state = request.app.state

    def fit(body: bytes) -> npt.NDArray[np.uint8]:
        size = state.tok.spec.image_size
        return fit_bytes(body, size, name="the upload", formats=("JPEG", "PNG"), max_pixels=MAX_PIXELS)

    async with admitted(request) as body:
        pixels = await anyio.to_thread.run_sync(fit, body, limiter=state.threads)
        return {"ids": (await state.service.encode(pixels)).tolist()}


@app.post("/decode")
async def decode(request: Request) -> Response:
    """{"ids": [...]}, a whole number of scales -> a PNG."""
    tok, threads = request.app.state.tok, request.app.state.threads

    def run(body: bytes) -> bytes:
        try:
            ids = np.asarray(json.loads(body)["ids"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise coda_runtime.TokenError('expected JSON as {"ids": [12, 7, ...]}') from error
        png = io.BytesIO()
        Image.fromarray(tok.decode(ids[None])[0]).save(png, "PNG")
        return png.getvalue()

    async with admitted(request) as body:
        return Response(await anyio.to_thread.run_sync(run, body, limiter=threads), media_type="image/png")


@app.get("/ready")
async def ready(request: Request) -> dict[str, object]:
    """Answers only after the warm-up, for uvicorn listens only then."""
    spec = request.app.state.tok.spec
    return {"ready": True, "variant": spec.variant, "num_tokens": spec.num_tokens, "vocab_size": spec.vocab_size}
