"""`coda serve` as a process, and what its clients need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 120.0
"""Seconds after which a test gives up on something that takes a moment."""
COMMAND = [sys.executable, "-m", "coda_runtime.cli", "serve"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_serve(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A server that is expected to fail."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment(), check=False)


class Server:
    """A running server; `lines` are its log so far. `command` and `env` are for one that is installed elsewhere."""

    def __init__(
        self,
        bundle: Path,
        *options: object,
        command: Sequence[str] = COMMAND,
        env: Mapping[str, str] | None = None,
    ) -> None:
        ports = ["--http-port", "0", "--grpc-port", "0"]
        self.process = subprocess.Popen(
            [*command, str(bundle), *ports, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() if env is None else env,
        )
        self.lines: list[dict[str, Any]] = []
        self.other_output: list[str] = []
        self._heard = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        listening = self.wait_for("listening")
        self.http, self.grpc = listening["http"], listening["grpc"]

    def wait_for(self, message: str, **fields: object) -> dict[str, Any]:
        """The first line of the log with this message and these fields."""

        def find() -> dict[str, Any] | None:
            wanted = {"message": message, **fields}
            return next((line for line in self.lines if wanted.items() <= line.items()), None)

        with self._heard:
            found = self._heard.wait_for(lambda: find() or self._ended, LIMIT) and find()
        assert found, f"no {message!r} in {self.lines} {self.other_output}"
        return found

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        return self.post(path, None)

    def post(self, path: str, body: bytes | None, **headers: str) -> tuple[int, str]:
        """Status and body; underscores in names of headers are dashes."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.http}{path}", body, names)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The value of a series, such as 'coda_errors_total{kind="busy"}', 0 before its first event."""
        _, text = self.get("/metrics")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def wait_for_metric(self, name: str, value: float) -> None:
        end = time.monotonic() + LIMIT
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._heard:
                    try:
                        self.lines.append(json.loads(line))
                    except ValueError:
                        self.other_output.append(line)
                    self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()


def body(values: NDArray[Any], name: str, datatype: str, **changes: Any) -> bytes:
    """A JSON request with one tensor; `changes` replace what its input says."""
    tensor = {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def ids_body(rows: int = 1, **changes: Any) -> bytes:
    """A JSON request to decode the first scale of `rows` images."""
    return body(np.zeros((rows, 1), np.int32), "ids", "INT32", **changes)
