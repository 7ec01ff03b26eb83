"""Logs on stderr, one line each, as JSON or as text; those of kserve, uvicorn and gRPC among them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_OURS = "coda.serve"
_LOUD = (_OURS, "kserve", "uvicorn", "grpc", "asyncio")
# One line for each request is written here, with more in it than theirs.
_SILENT = ("kserve.trace", "uvicorn.access")


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
            "message": record.getMessage(),
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


def set_up(log_format: str) -> None:
    """Write logs to stderr as "json" or "text". Loggers of the libraries tell of warnings alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(log_format == "json"))
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
