"""A piece of work in a process of its own: what crashes, hangs or spoils its CUDA context takes nothing else along."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from coda_runtime.errors import CodaError, one_line

OVER = "the time of the call was over"
"""Why something was not begun."""
STOPPED = "stopped after"
"""How the reason of what was begun, and took too long, begins."""
_PR_SET_PDEATHSIG = 1  # of prctl.h
METHOD = "fork"
"""A fork has everything imported already; where an import has touched CUDA, only "spawn" will do."""


def _child(work: Callable[[], None], results: Connection) -> None:
    _end_with_the_parent()
    try:
        work()
        results.send(None)
    except BaseException as error:
        if not isinstance(error, CodaError):  # those say all in their message
            traceback.print_exc()
        results.send(one_line(error, named=True))
    finally:
        results.close()
        sys.stdout.flush()
        sys.stderr.flush()
        # Without the libraries' own farewells, which may crash after all is said.
        os._exit(0)


def _end_with_the_parent() -> None:
    """Ctrl-C is the parent's to answer, and what outlives it would spoil the times of whoever goes on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def in_child(work: Callable[[], None], seconds: float) -> str | None:
    """Run ``work`` in a process of its own for at most ``seconds``. None, or why it did not finish."""
    context: Any = multiprocessing.get_context(METHOD)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, sending))
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numpy's BLAS, idle here
        process.start()
    sending.close()
    try:
        process.join(max(1.0, seconds))
        late = process.is_alive()
    finally:  # an interrupt too leaves nothing behind
        if process.is_alive():
            process.kill()
            process.join()
    if late:
        return f"{STOPPED} {seconds:.0f} s"
    try:
        told: str | None = receiving.recv()
    except EOFError:
        code = process.exitcode or 0
        return f"the process died of {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    return told
