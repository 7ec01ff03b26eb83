"""The three parts of a loaded tokenizer: run one after the other, on the device between each other, and closed once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .backends.base import DeviceArray, DeviceSession, Session, keeps_on_device, profiles_of
from .errors import ArtifactError, ClosedError, DeviceError
from .format.parts import PARTS
from .format.profiles import BatchSizes
from .format.spec import Spec
from .machine import forks
from .nvtx_ranges import Ranges, no_ranges

Array = npt.NDArray[Any] | DeviceArray
A = TypeVar("A", npt.NDArray[Any], DeviceArray)

_LOOK_AGAIN = 0.1  # seconds


class Sessions:
    """Sessions by part. Many threads may run them; closing waits for the runs under way."""

    def __init__(self, sessions: Mapping[str, Session], spec: Spec, folder: Path, ranges: Ranges = no_ranges) -> None:
        self._sessions = dict(sessions)
        self._spec, self._folder, self._range = spec, folder, ranges
        self._state = threading.Condition()
        self._running: set[int] = set()  # the threads that run something
        self._process = os.getpid()
        self.closed = False
        forks.guard(self)

    def run(self, batch: npt.NDArray[Any], *parts: str) -> npt.NDArray[Any]:
        """Run an array through `parts`, and return what the last one gives.

        Between parts on one GPU nothing is copied to the host. Raises ArtifactError for a graph that returns another
        shape or dtype than its part promises, BackendError, ClosedError.
        """
        with self._open() as sessions:
            value: Array = batch
            for part, following in zip(parts, (*parts[1:], None), strict=True):
                session = sessions[part]
                stays = following is not None and _share_device(session, sessions[following])
                with self._range(part, len(batch)):
                    if keeps_on_device(session) and (stays or not isinstance(value, np.ndarray)):
                        value = self._checked(part, session.run_on_device(value), len(batch))
                    else:
                        value = self._checked(part, session.run(_host(value)), len(batch))
            return _host(value)

    def run_on_device(self, array: Any, check: Callable[[DeviceArray], DeviceArray], *parts: str) -> DeviceArray:
        """Do as `run` does, from an array of any library on the GPU to one there. `check` sees the input as ours first.

        Raises DeviceError unless all parts run on the GPU the array lies on.
        """
        with self._open() as sessions:
            taken: list[DeviceSession] = []
            for part in parts:
                session = sessions[part]
                if keeps_on_device(session):
                    taken.append(session)
                else:
                    raise DeviceError(
                        f"the array is on a GPU, and the {part} runs on {session.device}; load the bundle with "
                        'device="cuda", or pass a numpy array'
                    )
            value = check(taken[0].take(array))
            count = value.shape[0]
            for part, session in zip(parts, taken, strict=True):
                with self._range(part, count):
                    value = self._checked(part, session.run_on_device(value), count)
            return value

    @contextmanager
    def replaced(self, change: Callable[[str, Session], Session]) -> Iterator[None]:
        """Run parts on what `change(part, session)` gives, inside the block. No other thread may run them meanwhile."""
        before = self._sessions
        self._sessions = {part: change(part, session) for part, session in before.items()}
        try:
            yield
        finally:
            self._sessions = before

    def sizes(self, *parts: str) -> dict[str, BatchSizes]:
        """Return the batches that each of `parts` takes; a part that takes any is left out."""
        profiles = {part: profiles_of(self._sessions[part]) for part in parts}
        return {part: BatchSizes.of(found) for part, found in profiles.items() if found}

    def check_open(self) -> None:
        """Raise ClosedError when they were closed, or belong to the process that this one was forked from."""
        if self._process != os.getpid():
            raise ClosedError(
                f"the tokenizer of {self._folder} was loaded before this process was forked, and engines stay behind: "
                "call coda_runtime.load in each process, after the fork, or start processes by spawn"
            )
        if self.closed:
            raise ClosedError(
                f"the tokenizer of {self._folder} is closed; load the bundle again with coda_runtime.load"
            )

    def close(self) -> None:
        """Free the engines after the runs that are under way in other threads.

        May be called twice; does nothing after a fork.
        """
        if self._process != os.getpid():
            self.closed = True
            return
        with self._state:
            self.closed = True
            # A run of this very thread is over: an interrupt came before it could say so. One of another thread may
            # have been interrupted between its end and its word of it, so nobody waits for the word alone.
            while self._running - {threading.get_ident()}:
                self._state.wait(_LOOK_AGAIN)
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.close()

    def sessions(self) -> dict[str, Session]:
        """Return what `forks` keeps alive."""
        return self._sessions

    @contextmanager
    def _open(self) -> Iterator[dict[str, Session]]:
        """Yield the sessions, kept from closing for as long as one run takes."""
        self.check_open()  # before the lock, which another thread of the parent may have held during a fork
        me = threading.get_ident()
        try:
            with self._state:
                self.check_open()
                self._running.add(me)
            yield self._sessions
        finally:
            # Before the lock is waited for, where an interrupt may come.
            self._running.discard(me)
            with self._state:
                self._state.notify_all()

    def _checked(self, part: str, out: A, count: int) -> A:
        expected = PARTS[part].output
        shape = expected.shape(self._spec, count)
        if out.shape != shape or out.dtype != expected.dtype:
            raise ArtifactError(
                f"the {part} of {self._folder} returned {out.dtype} {list(out.shape)}, expected "
                f"{expected.dtype} {list(shape)}; export the bundle again"
            )
        return out


def _share_device(a: Session, b: Session) -> bool:
    return keeps_on_device(a) and keeps_on_device(b) and a.device == b.device


def _host(value: Array) -> npt.NDArray[Any]:
    return value if isinstance(value, np.ndarray) else value.numpy()
