"""A web service of your own: one process, one tokenizer, as many requests at a time as are good for it.

pip install "./runtime[cpu,images]" fastapi uvicorn    # in the checkout
CODA_BUNDLE=bundle/ uvicorn fastapi_app:app
curl --data-binary @photo.jpg localhost:8000/encode                          # {"ids": [12, 7, ...]}
curl --fail --data '{"ids": [12]}' localhost:8000/decode --output photo.png  # a whole number of scales; here, one

What to watch for:
- Threads. The engines use every core for one run; runs side by side share them, so that more than RUNS at once only
  lengthen each other. With `uvicorn --workers N` set CODA_THREADS to cores / N.
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
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.requests import ClientDisconnect

import coda_runtime
from coda_runtime.images import fit_bytes

MAX_BYTES = 16 << 20  # of one body
MAX_PIXELS = 25_000_000  # of one upload, by its header
RUNS = 2  # one computes while the other decodes its JPEG
SECONDS = 30  # for a body to arrive
MAX_REQUESTS = 32  # inside at a time; the next is told to come back


def load() -> coda_runtime.Tokenizer:
    tok = coda_runtime.load(os.environ["CODA_BUNDLE"], threads=int(os.environ.get("CODA_THREADS", "0")) or None)
    tok.reconstruct(np.zeros((1, *tok.spec.image_shape, 3), np.uint8))
    return tok


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # In each worker, after uvicorn made the process: a tokenizer does not outlive a fork.
    app.state.tok = await anyio.to_thread.run_sync(load)
    app.state.runs = anyio.CapacityLimiter(RUNS)
    app.state.requests = 0
    yield  # on SIGTERM uvicorn finishes the requests it has, then comes back here
    app.state.tok.close()


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
    tok, runs = request.app.state.tok, request.app.state.runs

    def run(body: bytes) -> list[int]:
        size = tok.spec.image_size
        pixels = fit_bytes(body, size, name="the upload", formats=("JPEG", "PNG"), max_pixels=MAX_PIXELS)
        ids: list[int] = tok.encode(pixels[None])[0].tolist()
        return ids

    async with admitted(request) as body:
        return {"ids": await anyio.to_thread.run_sync(run, body, limiter=runs)}


@app.post("/decode")
async def decode(request: Request) -> Response:
    """{"ids": [...]}, a whole number of scales -> a PNG."""
    tok, runs = request.app.state.tok, request.app.state.runs

    def run(body: bytes) -> bytes:
        try:
            ids = np.asarray(json.loads(body)["ids"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise coda_runtime.TokenError('expected JSON as {"ids": [12, 7, ...]}') from error
        png = io.BytesIO()
        Image.fromarray(tok.decode(ids[None])[0]).save(png, "PNG")
        return png.getvalue()

    async with admitted(request) as body:
        return Response(await anyio.to_thread.run_sync(run, body, limiter=runs), media_type="image/png")


@app.get("/ready")
async def ready(request: Request) -> dict[str, object]:
    """Answers only after the warm-up, for uvicorn listens only then."""
    spec = request.app.state.tok.spec
    return {"ready": True, "variant": spec.variant, "num_tokens": spec.num_tokens, "vocab_size": spec.vocab_size}
