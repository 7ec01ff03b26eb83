"""What TensorRT says while it works: kept, since its calls only answer None or False."""

from __future__ import annotations

import itertools
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import BackendError, CodaError, DeviceMemoryError, one_line
from .logger import shared_logger

_OUT_OF_MEMORY = re.compile(r"out[ _]*of[ _]*memory", re.IGNORECASE)


class Messages:
    """The errors that TensorRT logged, a few of each thread. `logger` is what TensorRT takes; it prints nothing."""

    def __init__(self, trt: Any) -> None:
        self._errors: deque[tuple[int, int, str]] = deque(maxlen=64)
        self._count = itertools.count(1)
        self._cleared = threading.local()
        shared = shared_logger(trt)
        shared.add(self)
        self.logger = shared.raw

    def hear(self, message: str, *, is_error: bool) -> None:
        """Keep an error; the logger's other messages are not for users."""
        if is_error:
            self._errors.append((next(self._count), threading.get_ident(), message))

    def clear(self) -> None:
        """Forget what has been said so far, as far as this thread goes, before a call whose errors are wanted."""
        self._cleared.at = next(self._count)

    def first(self) -> str:
        """Return the first line of this thread's first error, or any thread's: TensorRT has threads of its own."""
        since, mine = getattr(self._cleared, "at", 0), threading.get_ident()
        entries = [(thread, text) for number, thread, text in list(self._errors) if number > since]
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
            self.hear(str(error) or type(error).__name__, is_error=True)
            raise self.error(failed, remedy) from error
