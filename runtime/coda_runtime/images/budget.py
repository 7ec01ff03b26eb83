"""A file that is read for so long and no longer: what ends a decoder that some file keeps busy."""

from __future__ import annotations

import time
from typing import IO, Any

from ..errors import ImageError

MAX_SECONDS = 20.0
"""Seconds of a processor that one file may take to decode; the largest within MAX_PIXELS take a few."""


class BudgetedFile:
    """A file that raises ImageError when it is read after its time: its thread's, from the start on.

    Decoders read in pieces, so each of them comes by here; waiting for a processor, or for a disk, does not count.
    """

    def __init__(self, file: IO[bytes], name: str, seconds: float, advice: str) -> None:
        self._file, self._name, self._seconds, self._advice = file, name, seconds, advice
        self._end = time.thread_time() + seconds
        self._look = time.monotonic() + seconds
        self._read, self._seek = file.read, file.seek

    def check(self) -> None:
        """Raise ImageError if the time is up."""
        now = time.monotonic()
        if now < self._look:  # no thread gets more of a processor than time goes by; this clock costs a tenth
            return
        left = self._end - time.thread_time()
        if left < 0:
            raise ImageError(
                f"{self._name!r} takes more than {self._seconds:g} s to decode, the limit here: save it again with "
                f"another program, as PNG or JPEG{self._advice}"
            )
        self._look = now + left

    def read(self, size: int = -1) -> bytes:
        """Read as the file does."""
        self.check()
        return self._read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the place as the file does."""
        self.check()
        return self._seek(offset, whence)

    def close(self) -> None:
        """Leave that to who opened the file."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
