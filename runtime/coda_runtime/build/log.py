"""What a builder logs: its errors, since its calls only answer None, and the memory of each batch profile."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..backends.tensorrt.logger import shared_logger
from ..errors import one_line

# Of both libraries. Words of a log may change with a version: then nothing is known before an engine is loaded.
_PROFILE = re.compile(r"Constructing optimization profile number (\d+) \[")
_MEMORY = re.compile(r"Total Activation Memory: (\d+) bytes")


class BuildLog:
    """`errors` are the messages of the library's errors. `logger` is what the library takes; it prints nothing.

    `listen` is called with every other message.
    """

    def __init__(self, trt: Any, listen: Callable[[str], object] = lambda _: None) -> None:
        self.errors: list[str] = []
        self._listen = listen
        shared = shared_logger(trt)
        shared.add(self)
        self.logger = shared.raw
        self._profile = 0
        self._scratch: dict[int, int] = {}

    def scratch_bytes(self, profiles: int) -> tuple[int, ...] | None:
        """Return the device memory that a context of each of so many profiles works in, None where it was not told.

        Of an engine for several GPUs it is the one that takes most.
        """
        if sorted(self._scratch) != list(range(profiles)):
            return None
        return tuple(self._scratch[index] for index in range(profiles))

    def hear(self, message: str, *, is_error: bool) -> None:
        """Keep an error, and read what else is said."""
        if is_error:
            self.errors.append(one_line(message, limit=None))
            return
        self._listen(message)
        if (found := _PROFILE.search(message)) is not None:
            self._profile = int(found[1])
        elif (found := _MEMORY.search(message)) is not None:
            self._scratch[self._profile] = max(int(found[1]), self._scratch.get(self._profile, 0))
