"""A worker as a child process: started, listened to, and ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import one_line

Message = dict[str, Any]

_GRACE = 10.0
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")  # read when NumPy is imported
_KILLED_BY_MEMORY = 9  # SIGKILL, which the kernel sends when memory runs out


def worker_command(python: str = sys.executable) -> list[str]:
    """Return the command that starts a worker, with this Python or the one of another environment."""
    # -P leaves the user's working directory out of the path.
    return [python, "-P", "-m", "coda_runtime.bench.worker"]


def run_case(
    case: Mapping[str, Any],
    folder: Path,
    hear: Callable[[Message], None],
    *,
    silence_s: float,
    command: Sequence[str] | None = None,
) -> str | None:
    """Run a case in a process of its own; `hear` is given each message as it comes, "done" the last.

    The process is ended when it was silent for `silence_s` seconds, and when this function is left by any exception.
    `folder` takes its stderr. Returns None when it got to "done" or told its "problem", or else in one line why not.
    """
    log = folder / "stderr.txt"
    with log.open("wb") as stderr:
        # A group of its own: Ctrl-C on a terminal is for us, who then end it with all that it started.
        own_group: dict[str, Any] = {} if sys.platform == "win32" else {"process_group": 0}
        child = subprocess.Popen(  # noqa: S603
            list(command or worker_command()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(case),
            **own_group,
        )
    try:
        problem = _listen(child, case, hear, silence_s)
        if problem == "":
            return _post_mortem(child, log)
        if problem is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it frees its engines
                child.wait(_GRACE)
        return problem
    finally:
        _end(child)


def _listen(
    child: subprocess.Popen[bytes], case: Mapping[str, Any], hear: Callable[[Message], None], silence_s: float
) -> str | None:
    """Return None when all went well, a problem, or "" when the process ended before it was done."""
    assert child.stdin is not None  # noqa: S101 - both are pipes
    assert child.stdout is not None  # noqa: S101
    with contextlib.suppress(OSError):  # it died at once; its stderr says why
        # Left open: the worker ends with it.
        child.stdin.write(json.dumps(case).encode() + b"\n")
        child.stdin.flush()
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=silence_s)
        except queue.Empty:
            return f"no call ended within {silence_s:g} s, so the process was stopped; allow more: --timeout SECONDS"
        if line is None:
            return ""
        try:
            message = json.loads(line)
            kind = message["kind"]
        except (ValueError, TypeError, KeyError):
            return f"the worker wrote {line[:80]!r}, which is not a result"
        hear(message)
        if kind in ("done", "problem"):
            return None


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _post_mortem(child: subprocess.Popen[bytes], log: Path) -> str:
    """Return why the process ended before it was done: the last line of its stderr, and how it ended."""
    code = child.wait()
    last = one_line(log.read_text(encoding="utf-8", errors="replace"), line=-1)
    if code == -_KILLED_BY_MEMORY:
        how = "was killed (SIGKILL), as the system does when memory runs out: take a smaller --batch"
    elif code < 0:
        how = f"ended by {_signal_name(-code)}"
    else:
        how = f"ended with exit code {code}"
    return f"{last} (the process {how})" if last else f"the process {how}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process and what it started, and wait for it, so that its CPU time counts as ours."""
    assert child.stdin is not None  # noqa: S101
    if child.poll() is None:
        if sys.platform == "win32":
            child.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    with contextlib.suppress(OSError):
        child.stdin.close()


def _environment(case: Mapping[str, Any]) -> dict[str, str]:
    # coda_runtime may lie in a folder that is on this process's path only.
    folder = str(Path(__file__).parents[2])
    out = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))}
    if case.get("threads") is not None:
        # NumPy's matrix product, the ceiling that `flops_share` is of, gets the threads that the engine gets.
        out.update(dict.fromkeys(_BLAS_THREADS, str(case["threads"])))
    return out
