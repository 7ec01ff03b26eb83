"""Requests that wait for their clients: to send, or to read. Where there is no room for another, one gives way.

So whoever holds places by being slow loses them as soon as somebody else wants one, and not only at the timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 1.0
"""Seconds that a client may be waited for before its request may have to give way."""


class Waits:
    """Requests that wait for their clients, the longest wait first. All of it runs on the event loop."""

    def __init__(self) -> None:
        self._waits: dict[object, tuple[float, Callable[[], object]]] = {}

    def enter(self, give_way: Callable[[], object]) -> Callable[[], object]:
        """Note that a request waits from now on; `give_way` ends it. Return what is to be called when it does not."""
        key = object()
        self._waits[key] = time.monotonic(), give_way
        return lambda: self._waits.pop(key, None)

    @contextmanager
    def waiting(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Note a wait for the length of a block, which `limit` ends if it has to give way."""
        leave = self.enter(lambda: limit.reschedule(asyncio.get_running_loop().time()))
        try:
            yield
        finally:
            leave()

    def give_way(self) -> bool:
        """End the longest wait. False if there is none of more than `GRACE` seconds."""
        key = next(iter(self._waits), None)
        if key is None or time.monotonic() - self._waits[key][0] < GRACE:
            return False
        _, give_way = self._waits.pop(key)
        give_way()
        return True
