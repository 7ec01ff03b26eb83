"""An interrupt may come between any two instructions; what is closed afterwards does not wait for what is over."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from coda_runtime import ClosedError, load, sessions
from tests.runtime import tiny


class Impatient(threading.Condition):
    """A condition on which nobody may wait: in these tests no other thread runs anything."""

    def wait(self, timeout: float | None = None) -> bool:
        raise AssertionError("close waits for a run that is over")


def _interrupting(at: int) -> Any:
    """Return a trace function that interrupts at the instruction of that number in `sessions`."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != sessions.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code.co_name in ("_open", "run"):
            seen += 1
            if seen == at:
                raise KeyboardInterrupt
        return trace

    return trace


def test_close_does_not_wait_for_a_run_that_was_interrupted(sealed: Path) -> None:
    at, interrupted = 0, True
    while interrupted:
        at += 3  # every third: a test of seconds
        tok = load(sealed, "cpu")
        tok._sessions._state = Impatient()
        before = sys.gettrace()
        sys.settrace(_interrupting(at))
        try:
            tok.encode(tiny.photos(1))
            interrupted = False
        except KeyboardInterrupt:
            sys.settrace(before)
            tok.close()  # while the traceback still holds the run's frames
        finally:
            sys.settrace(before)
        tok.close()
        with pytest.raises(ClosedError):
            tok.encode(tiny.photos(1))
    assert at > 60


def test_close_waits_for_a_run_of_another_thread(sealed: Path) -> None:
    tok = load(sealed, "cpu")
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    session = tok._sessions._sessions["encoder"]
    run = session.run

    def slow(batch: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        assert not closed.is_set()
        return run(batch)

    session.run = slow  # type: ignore[method-assign]
    running = threading.Thread(target=tok.encode, args=(tiny.photos(1),))
    closing = threading.Thread(target=lambda: (tok.close(), closed.set()))
    running.start()
    assert inside.wait(60)
    closing.start()
    assert not closed.wait(0.1)
    go_on.set()
    running.join(60)
    assert closed.wait(60)
    closing.join(60)


class Interrupted(threading.Condition):
    """A condition whose lock an interrupt keeps the running thread from taking at the end of its run."""

    def __init__(self) -> None:
        super().__init__()
        self.victim: threading.Thread | None = None

    def __enter__(self) -> bool:
        if threading.current_thread() is self.victim:
            raise KeyboardInterrupt
        return super().__enter__()


def test_close_does_not_wait_for_the_word_of_an_interrupted_run(sealed: Path) -> None:
    """The run is over, and its thread is interrupted before it wakes the one that closes."""
    tok = load(sealed, "cpu")
    state = tok._sessions._state = Interrupted()
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    session = tok._sessions._sessions["encoder"]
    run = session.run

    def slow(batch: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        state.victim = threading.current_thread()
        return run(batch)

    def encode() -> None:
        with pytest.raises(KeyboardInterrupt):
            tok.encode(tiny.photos(1))

    session.run = slow  # type: ignore[method-assign]
    running = threading.Thread(target=encode)
    closing = threading.Thread(target=lambda: (tok.close(), closed.set()), daemon=True)
    running.start()
    assert inside.wait(60)
    closing.start()
    assert not closed.wait(0.2), "it waits"
    go_on.set()
    running.join(60)
    assert closed.wait(5)
