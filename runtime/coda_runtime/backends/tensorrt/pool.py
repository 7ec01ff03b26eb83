"""The executors of one batch profile: each thread takes one for the time of its call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...errors import ClosedError, DeviceMemoryError
from ..cuda.layer import DeviceLayer
from ..cuda.staging import StagingPool
from .engine import Engine
from .executor import Executor


class ExecutorPool:
    """Executors of the profile with the index `profile`, made as threads need them.

    `max_executors` is how many threads run at once: it falls to the number there is when the GPU's memory does not
    suffice for one more. Where it does not suffice for the first, idle ones of the pools `larger` go, one by one.
    """

    def __init__(
        self, engine: Engine, profile: int, layer: DeviceLayer, staging: StagingPool, max_executors: int
    ) -> None:
        self.batch = engine.profiles[profile]
        self.max_executors = max_executors
        self._engine = engine
        self._profile = profile
        self._layer = layer
        self._staging = staging
        self._change = threading.Condition()
        self._executors: list[Executor] = []
        self._free: list[Executor] = []
        self._making = 0
        self._closed = False
        self.larger: Sequence[ExecutorPool] = ()

    def __len__(self) -> int:
        """How many executors there are."""
        with self._change:
            return len(self._executors)

    def graphs(self, count: int) -> tuple[str, ...]:
        """Return for each executor whether it has a CUDA graph for `count` images, or why it has none."""
        with self._change:
            return tuple(executor.graphs[count] for executor in self._executors)

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """Yield an executor that no other thread has meanwhile. Called inside `layer.active()`.

        Raises DeviceMemoryError, BackendError, ClosedError.
        """
        executor = self._acquire()
        try:
            yield executor
        finally:
            with self._change:
                # Last in, first out: the executor that ran last has its graphs, and the others may stay unused.
                self._free.append(executor)
                self._change.notify()

    def release(self) -> bool:
        """Free an executor that nobody uses, and return whether there was one. Called inside `layer.active()`."""
        with self._change:
            if not self._free:
                return False
            executor = self._free.pop(0)
            self._executors.remove(executor)
        executor.close()
        return True

    def close(self) -> None:
        """Wait for what is queued, and free the executors. Called inside `layer.active()`."""
        with self._change:
            self._closed = True
            executors, self._executors, self._free = self._executors, [], []
            self._change.notify_all()
        for executor in executors:
            executor.close()

    def _acquire(self) -> Executor:
        while True:
            with self._change:
                while not self._free and len(self._executors) + self._making >= self.max_executors and not self._closed:
                    self._change.wait()
                if self._closed:
                    raise closed_error(self._engine.name)
                if self._free:
                    return self._free.pop()
                self._making += 1
            executor = None
            try:
                executor = Executor(self._engine, self._profile, self._layer, self._staging)
            except DeviceMemoryError:
                with self._change:
                    there = len(self._executors)
                    self.max_executors = there or self.max_executors
                if not there and not any(pool.release() for pool in self.larger):
                    raise
            finally:
                with self._change:
                    self._making -= 1
                    if executor is not None:
                        self._executors.append(executor)
                    self._change.notify_all()
            if executor is not None:
                return executor


def closed_error(name: str) -> ClosedError:
    """Return the error for a call of an engine that is closed."""
    return ClosedError(f"{name} is closed; load the bundle again with coda_runtime.load")
