"""The log, and what becomes of the server when nobody reads it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import coda_runtime.serving.logs as logs
from tests.runtime.serving.process import COMMAND, LIMIT, environment

FULL = 1000
"""Lines that fill a pipe and the buffer below."""
LINE = "x" * 999 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[io.FileIO, io.TextIOWrapper]]:
    """Its ends, to read and to write."""
    out, into = os.pipe()
    with os.fdopen(out, "rb", 0) as reader, os.fdopen(into, "w") as writer, suppress(BrokenPipeError):
        yield reader, writer


def test_what_nobody_reads_is_dropped_and_counted_and_told_of_later(
    pipe: tuple[io.FileIO, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_BUFFER_BYTES", 100_000)
    dropped: list[int] = []
    writer = logs.LineWriter(pipe[1], lambda number: f"{number} dropped\n")
    writer.count_dropped(dropped.append)
    for _ in range(FULL):
        writer.put(LINE)
    assert not writer.flush(0.05)
    kept = FULL - sum(dropped)
    assert 100 <= kept < FULL
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.extend(pipe[0].readlines(kept * len(LINE))))
    reading.start()
    assert writer.flush(LIMIT)
    reading.join(LIMIT)
    assert found.count(LINE.encode()) == kept
    assert f"{sum(dropped)} dropped\n".encode() in found


def test_a_reader_that_is_gone_stops_nobody(pipe: tuple[io.FileIO, io.TextIOWrapper]) -> None:
    dropped: list[int] = []
    writer = logs.LineWriter(pipe[1], lambda number: "")
    writer.count_dropped(dropped.append)
    pipe[0].close()
    writer.put(LINE)
    assert writer.flush(LIMIT)
    assert sum(dropped) == 1


def address_once_ready(process: subprocess.Popen[str]) -> str:
    """Where a server answers HTTP; its log is read until it is ready, and not after that."""
    assert process.stderr is not None
    said: list[dict[str, str]] = []
    while not any(line["message"] == "ready" for line in said):
        said.append(json.loads(process.stderr.readline()))
    (address,) = [line["http"] for line in said if line["message"] == "listening"]
    return address


def ask_for_nothing(address: str) -> None:
    """A request that makes a line of some 200 bytes in the log."""
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://{address}/v2/models/nothing/infer", b"{}", timeout=LIMIT)
    assert error.value.code == 404
    error.value.close()


def test_lines_that_a_server_drops_are_in_its_metrics(sealed: Path) -> None:
    """A server whose log has room for a few lines, and whose stderr is read only now and then."""
    shrunk = "import coda_runtime.serving.logs as l; l._BUFFER_BYTES = 4096; from coda_runtime.cli import main; main()"
    command = [sys.executable, "-c", shrunk, "serve", str(sealed), "--http-port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            address = address_once_ready(process)
            for _ in range(500):
                ask_for_nothing(address)
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT) as answer:
                text = answer.read().decode()
            (dropped,) = re.findall(r"^coda_log_lines_dropped_total (.*)$", text, re.MULTILINE)
            assert float(dropped) > 0
        finally:
            process.kill()


def test_stderr_keeps_its_descriptor(pipe: tuple[io.FileIO, io.TextIOWrapper]) -> None:
    raw: Any = logs._Stderr(logs.LineWriter(pipe[1], lambda number: ""))
    assert io.TextIOWrapper(raw).fileno() == pipe[1].fileno()


def test_a_message_is_cut() -> None:
    record = logs.logging.makeLogRecord({"msg": "y" * 10**6})
    assert len(logs.Lines(as_json=True).format(record)) < 10_000


def test_a_server_whose_log_nobody_reads_answers_and_ends(sealed: Path) -> None:
    command = [*COMMAND, str(sealed), "--http-port", "0", "--grpc-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            address = address_once_ready(process)
            # From here on its log is not read. A pipe holds 64 KiB; each of these makes a line of 200 bytes.
            for _ in range(600):
                ask_for_nothing(address)
            with urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=LIMIT) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
