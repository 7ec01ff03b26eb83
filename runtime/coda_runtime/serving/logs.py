"""Logs on stderr, one line each, as JSON or as text; those of kserve, uvicorn and gRPC among them.

Whoever reads stderr may stop, and a write to a full pipe waits for ever. So one thread alone writes there; all others,
the event loop first, leave their lines in a buffer, and what has no room in it is dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

_OURS = "coda.serve"
_LOUD = (_OURS, "kserve", "uvicorn", "grpc", "asyncio")
# One line for each request is written here, with more in it than theirs.
_SILENT = ("kserve.trace", "uvicorn.access")
_BUFFER_BYTES = 2**20  # of lines that are still to be written
_MAX_MESSAGE = 2000  # characters
_LAST_SECONDS = 1.0  # for a reader that is slow, when the process ends
_AGAIN_SECONDS = 0.05  # where stderr is shared with a program that made it non-blocking


class LineWriter:
    """Writes to a stream in a thread of its own. `put` never waits: while the buffer is full, lines are dropped.

    Args:
        stream: where to; its file descriptor is written to directly, if it has one.
        told: makes the line that says how many were dropped, once there is room again.
    """

    def __init__(self, stream: IO[str], told: Callable[[int], str]) -> None:
        self._stream, self._told = stream, told
        self.descriptor = _descriptor(stream)
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._size = 0  # bytes in the buffer, the line that is being written among them
        self._untold = 0
        self._count: Callable[[int], Any] = lambda number: None
        threading.Thread(target=self._work, name="coda-log", daemon=True).start()

    def count_dropped(self, count: Callable[[int], Any]) -> None:
        """Call `count` with the number of lines whenever some are dropped."""
        self._count = count

    def put(self, text: str) -> None:
        """Leave one or more whole lines to be written."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            room = self._size + len(line) <= _BUFFER_BYTES
            if room:
                self._lines.append(line)
                self._size += len(line)
                self._changed.notify_all()
            else:
                self._untold += 1
        if not room:
            self._count(1)

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, `seconds` at most. False if some is left."""
        end = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: not self._size, end - time.monotonic())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line, untold = self._lines.popleft(), self._untold
                self._untold = 0
            written = self._write(line) and (not untold or self._write(self._told(untold).encode()))
            with self._changed:
                self._size -= len(line)
                self._changed.notify_all()
            if not written:
                self._count(1)

    def _write(self, line: bytes) -> bool:
        """Write a line, however long it takes. False when nobody can read it any more."""
        try:
            if self.descriptor is None:
                self._stream.write(line.decode())
                self._stream.flush()
            while self.descriptor is not None and line:
                try:
                    line = line[os.write(self.descriptor, line) :]
                except BlockingIOError:
                    time.sleep(_AGAIN_SECONDS)
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            return False
        return True


class _Stderr(io.RawIOBase):
    """Gives a LineWriter what is written to sys.stderr: tracebacks, warnings, and the command's last words."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the descriptor of the stream behind it, which faulthandler and subprocesses ask for."""
        if self._writer.descriptor is None:
            return super().fileno()
        return self._writer.descriptor

    def write(self, data: Any) -> int:
        self._writer.put(bytes(data).decode(errors="backslashreplace"))
        return len(data)


class _Handler(logging.Handler):
    """Gives records to a LineWriter."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.put(f"{self.format(record)}\n")


class Lines(logging.Formatter):
    """One line for each record. What `extra={"fields": {...}}` brings stands beside the message."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        out = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MAX_MESSAGE],
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(out, default=str)
        time, level, _, message, *rest = out.values()
        names = list(out)[4:]
        fields = "".join(f" {name}={value}" for name, value in zip(names, rest, strict=True) if name != "traceback")
        # A client's words must neither make a line of their own nor steer the terminal.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{time} {level} {message}{fields}")
        return f"{line}\n{out['traceback']}" if "traceback" in out else line


def set_up(log_format: str) -> LineWriter:
    """Write logs to stderr as "json" or "text". Loggers of the libraries tell of warnings alone.

    From now on sys.stderr waits for no reader either, until the process ends.
    """
    lines = Lines(log_format == "json")

    def dropped(number: int) -> str:
        record = logging.makeLogRecord({"name": _OURS, "levelno": logging.WARNING, "levelname": "WARNING"})
        record.msg, record.fields = "lines of the log were dropped: nobody read them in time", {"lines": number}
        return f"{lines.format(record)}\n"

    writer = LineWriter(sys.stderr, dropped)
    atexit.register(writer.flush, _LAST_SECONDS)
    raw: Any = _Stderr(writer)
    sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
    # gRPC's C library writes to stderr itself, and would wait there; its errors come as exceptions and statuses too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = _Handler(writer)
    handler.setFormatter(lines)
    for name in _LOUD:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == _OURS else logging.WARNING)
    logging.captureWarnings(True)
    warnings = logging.getLogger("py.warnings")
    warnings.handlers, warnings.propagate = [handler], False
    for name in _SILENT:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], False
        logger.setLevel(logging.CRITICAL)
    return writer


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream in memory
        return None
