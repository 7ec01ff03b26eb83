"""What TensorRT says while it works: kept, since its calls only answer None or False."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ...errors import BackendError, CodaError, DeviceMemoryError, one_line

_OUT_OF_MEMORY = re.compile(r"out[ _]*of[ _]*memory", re.IGNORECASE)


class Messages:
    """The errors that TensorRT logged, a few of each thread. `logger` is what TensorRT takes; it prints nothing."""

    def __init__(self, trt: Any) -> None:
        self._errors: deque[tuple[int, str]] = deque(maxlen=64)
        self.logger = _make_logger(trt, self._errors)

    def clear(self) -> None:
        """Forget this thread's errors, before a call whose errors are wanted."""
        mine = threading.get_ident()
        for entry in list(self._errors):
            if entry[0] == mine:
                # A newer one of another thread may have pushed it out.
                with suppress(ValueError, IndexError):
                    self._errors.remove(entry)

    def first(self) -> str:
        """Return the first line of this thread's first error, or any thread's: TensorRT has threads of its own."""
        entries, mine = list(self._errors), threading.get_ident()
        texts = [text for thread, text in entries if thread == mine] or [text for _, text in entries]
        return (one_line(texts[0], line=0) if texts else "") or "it does not say why"

    def error(self, failed: str, remedy: str) -> BackendError:
        """Return the error to raise if TensorRT `failed`: DeviceMemoryError if it said so, or one with the `remedy`."""
        why = self.first()
        if _OUT_OF_MEMORY.search(why):
            return DeviceMemoryError(
                f"{failed}: memory ran out ({why}); use smaller batches, or free memory: `nvidia-smi` lists who "
                "holds it"
            )
        return BackendError(f"{failed} ({why}); {remedy}")

    @contextmanager
    def calls(self, failed: str, remedy: str) -> Iterator[None]:
        """Guard calls into TensorRT: what they raise comes out as `error`."""
        self.clear()
        try:
            yield
        except CodaError:
            raise
        except Exception as error:  # pybind11 turns any C++ exception into a RuntimeError, a TypeError or a MemoryError
            self._errors.append((threading.get_ident(), str(error) or type(error).__name__))
            raise self.error(failed, remedy) from error


def _make_logger(trt: Any, errors: deque[tuple[int, str]]) -> Any:
    kept = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc] # the base is only known when TensorRT is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept:
                errors.append((threading.get_ident(), str(msg)))

    return Logger()
