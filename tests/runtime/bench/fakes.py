"""A clock that only the work moves, and workers with faults to order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class FakeTime:
    """`clock` and `sleep`; `serve` takes `each` seconds an image and `call` beside, and notes what it was given."""

    each: float = 0.0
    call: float = 0.0
    now: float = 100.0
    served: list[tuple[int, int]] = field(default_factory=list)
    slept: float = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.slept += seconds

    def serve(self, start: int, stop: int) -> None:
        self.served.append((start, stop))
        self.now += self.call + self.each * (stop - start)

    def run(self, times: Callable[[int], float]) -> Callable[[int], None]:
        """A call whose n-th run takes `times(n)` seconds."""

        def call(number: int) -> None:
            self.now += times(number)

        return call


def worker(code: str) -> list[str]:
    """The command of a worker that does this after it has read its case; `say(kind, ...)` writes a message."""
    start = (
        "import json, os, signal, sys, time\n"
        "case = json.loads(sys.stdin.readline())\n"
        "def say(kind, **values): print(json.dumps({'kind': kind, **values}), flush=True)\n"
    )
    return [sys.executable, "-c", start + code]
