"""`coda serve` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Running:
    """A server that is ready: its process and where it listens."""

    pid: int
    http: str
    grpc: str


@contextmanager
def server(bundle: Path, options: list[str]) -> Iterator[Running]:
    """Start a server on free ports, wait until it is ready, and end it as Kubernetes does: SIGTERM."""
    command = [
        sys.executable,
        "-m",
        "coda_runtime.cli",
        "serve",
        str(bundle),
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        *options,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield _wait_ready(process.pid, process.stderr)
        process.terminate()
        code = process.wait(60)
        if code != 0:
            raise RuntimeError(f"the server ended with exit code {code}")
    finally:
        process.kill()
        process.wait()


def _wait_ready(pid: int, log: IO[str]) -> Running:
    addresses: dict[str, str] = {}
    for line in log:
        entry = json.loads(line) if line.startswith("{") else {"message": line}
        if entry["message"] == "listening":
            addresses = entry
        if entry["message"] == "ready":
            # Its log goes on, and must be read or the server would wait for a reader.
            threading.Thread(target=lambda: deque(log, maxlen=0), daemon=True).start()
            return Running(pid, addresses["http"], addresses["grpc"])
    raise RuntimeError(f"the server did not start: {entry['message']}")
