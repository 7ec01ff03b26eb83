"""Requests that wait for their clients: to send, or to read. Where there is no room for another, one gives way.

Slow is who moves fewer than `MIN_RATE` bytes a second over its connection. So a client that stalls, or sends a byte now
and then, loses its place as soon as somebody else wants it; one that goes on, however long it takes, keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 1.0
"""Seconds over which the rate of a client is measured, again and again, before its request may have to give way."""
MIN_RATE = 16 * 1024
"""Bytes a second of a client that is not slow."""
_FIRST_LOOK = 0.25  # seconds; most waits are over by then, and cost nothing


class _Wait:
    """One request's wait, with what had gone over its connection when it was last looked at."""

    def __init__(self, moved: Callable[[], int | None], give_way: Callable[[], bool]) -> None:
        self._moved, self.give_way = moved, give_way
        self._seen: tuple[float, int | None] | None = None

    def look(self) -> None:
        self._seen = time.monotonic(), self._moved()

    def is_slow(self) -> bool:
        """Tell whether too little moved since the last look. The rate of the time until then is forgotten."""
        if self._seen is None or (seconds := time.monotonic() - self._seen[0]) < GRACE:
            return False
        before, now = self._seen[1], self._moved()
        self.look()
        return before is not None and now is not None and now - before < MIN_RATE * seconds


class Waits:
    """Requests that wait for their clients, the longest wait first. All of it runs on the event loop."""

    def __init__(self) -> None:
        self._waits: dict[_Wait, None] = {}

    def enter(self, moved: Callable[[], int | None], give_way: Callable[[], bool]) -> Callable[[], None]:
        """Note that a request waits from now on, and return what is to be called when it no longer does.

        Args:
            moved: the bytes that went over its connection so far; None where the system does not tell, and no request
                gives way.
            give_way: ends the request; False if it could not.
        """
        wait = _Wait(moved, give_way)
        timer = asyncio.get_running_loop().call_later(_FIRST_LOOK, wait.look)
        self._waits[wait] = None

        def leave() -> None:
            timer.cancel()
            self._waits.pop(wait, None)

        return leave

    @contextmanager
    def waiting(self, moved: Callable[[], int | None], limit: asyncio.Timeout) -> Iterator[None]:
        """Note a wait for the length of a block, which `limit` ends if it has to give way."""

        def give_way() -> bool:
            limit.reschedule(asyncio.get_running_loop().time())
            return True

        leave = self.enter(moved, give_way)
        try:
            yield
        finally:
            leave()

    def give_way(self) -> bool:
        """End the longest wait of those whose clients are slow. False if there is none."""
        for wait in self._waits:
            if wait.is_slow() and wait.give_way():
                del self._waits[wait]
                return True
        return False
