"""Workers that share one port: the master binds it and forks, each worker loads its own tokenizer (Linux, macOS).

pip install "./runtime[cpu,images]"    # in the checkout
python preload.py bundle/ 8000 4
curl --data-binary @photo.jpg localhost:8000        # {"ids": [...], "worker": 1234}

What to watch for (gunicorn with `preload_app` is the same case):
- Load after the fork. Engines have threads, and a fork copies none of them: a tokenizer that the master loaded
  raises ClosedError in the child.
- Threads. Each worker gets cores / workers: all cores for all of them would be slower.
- Memory. Engines copy the weights, so that every worker has its own; only the libraries' code is shared. Threads of
  one process share them: prefer those unless Python itself is what keeps the cores waiting.
- Tokens. precision="auto" gives the same ids in every worker.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np

import coda_runtime
from coda_runtime.images import fit_bytes

MAX_BYTES = 16 << 20
stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


def serve(listener: socket.socket, bundle: str, threads: int, master: int) -> None:
    """One worker: a request at a time, until SIGTERM, the last one to its end."""
    tok = coda_runtime.load(bundle, threads=threads)
    size = tok.spec.image_size
    tok.encode(np.zeros((1, *tok.spec.image_shape, 3), np.uint8))  # the first run is slow; nobody waits for it yet

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds that a silent client may hold this worker

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            if not 0 < length <= MAX_BYTES:
                return self.answer(413, {"error": f"expected 1 to {MAX_BYTES} bytes"})
            try:
                pixels = fit_bytes(self.rfile.read(length), size, name="the upload", formats=("JPEG", "PNG"))
                ids = tok.encode(pixels[None])[0]
            except coda_runtime.InputError as error:
                return self.answer(422, {"error": str(error)})
            return self.answer(200, {"ids": ids.tolist(), "worker": os.getpid()})

        def answer(self, status: int, content: dict[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket, server.timeout = listener, 0.5
    while not stopping and os.getppid() == master:
        server.handle_request()
    tok.close()


def fork(listener: socket.socket, bundle: str, threads: int) -> int:
    master = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        serve(listener, bundle, threads, master)
    except coda_runtime.CodaError as error:
        sys.exit(f"error: {error}")
    sys.exit(0)


def main(bundle: str, port: str, count: str) -> None:
    signal.signal(signal.SIGTERM, stop)  # before the first fork: workers inherit it
    signal.signal(signal.SIGINT, stop)
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=64)
    listener.setblocking(False)  # one client wakes all workers, and those who come late must not wait in accept()
    print(f"listening on port {listener.getsockname()[1]}", flush=True)
    threads = max(1, (os.cpu_count() or 1) // int(count))
    workers: set[int] = set()
    failed = False
    while not stopping and not failed:
        while len(workers) < int(count):
            workers.add(fork(listener, bundle, threads))
        pid, status = os.waitpid(-1, os.WNOHANG)
        workers.discard(pid)
        failed = pid != 0 and os.WIFEXITED(status)  # it said why, and so would the next; a killed one is replaced
        time.sleep(0 if pid else 0.2)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    for pid in workers:
        os.waitpid(pid, 0)
    sys.exit(failed)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
