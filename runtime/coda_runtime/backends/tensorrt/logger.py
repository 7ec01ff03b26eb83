"""The one logger that a process gives an engine library.

TensorRT keeps the first logger it is given for as long as anything of it lives, and tells it everything, whoever it is
of. So there is one for each library, which passes on what it hears to all that listen: builds and loaded engines.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol


class Listener(Protocol):
    """What wants to know what a library says."""

    def hear(self, message: str, *, is_error: bool) -> None:
        """Take a message, on whichever thread the library says it."""


class SharedLogger:
    """`raw` is what the library takes. It prints nothing, and does not keep its listeners alive."""

    def __init__(self, trt: Any) -> None:
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.raw = _make(trt, self)

    def add(self, listener: Listener) -> None:
        """Let somebody listen from now on."""
        with self._lock:
            self._listeners.add(listener)

    def tell(self, message: str, *, is_error: bool) -> None:
        """Pass a message on."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.hear(message, is_error=is_error)


_LOGGERS: dict[int, tuple[Any, SharedLogger]] = {}
_MAKING = threading.Lock()


def shared_logger(trt: Any) -> SharedLogger:
    """Return the logger of a library, by its module."""
    with _MAKING:
        # With the module itself, so that no other one can take its id.
        return _LOGGERS.setdefault(id(trt), (trt, SharedLogger(trt)))[1]


def _make(trt: Any, shared: SharedLogger) -> Any:
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc] # the base is only known when the library is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            shared.tell(str(msg), is_error=severity in errors)

    return Logger()
