"""A worker that goes wrong: what is said of it, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.bench.process import run_case, worker_command
from tests.runtime.bench.fakes import worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def run(folder: Path, code: str, silence_s: float = 60) -> tuple[str | None, list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []
    return run_case({"n": 7}, folder, heard.append, silence_s=silence_s, command=worker(code)), heard


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_gets_the_case_and_is_heard_until_it_is_done(tmp_path: Path) -> None:
    problem, heard = run(tmp_path, "say('measured', n=case['n']); say('alive'); say('done')")
    assert problem is None
    assert heard == [{"kind": "measured", "n": 7}, {"kind": "alive"}, {"kind": "done"}]


def test_a_problem_that_it_tells_is_no_fault_of_the_process(tmp_path: Path) -> None:
    problem, heard = run(tmp_path, "say('problem', problem='no GPU')")
    assert problem is None
    assert heard[-1]["problem"] == "no GPU"


def test_numpy_gets_the_engine_s_threads(tmp_path: Path) -> None:
    code = "say('measured', found=os.environ.get('OPENBLAS_NUM_THREADS')); say('done')"
    found = []
    for case in ({"threads": 3}, {"threads": None}):
        heard: list[dict[str, Any]] = []
        assert run_case(case, tmp_path, heard.append, silence_s=60, command=worker(code)) is None
        found.append(heard[0]["found"])
    assert found == ["3", os.environ.get("OPENBLAS_NUM_THREADS")]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('a cable\\n  is loose')", "is loose (the process ended with exit code 1)"),
        ("say('loaded'); sys.exit(3)", "the process ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process was killed (SIGKILL), as the system does when memory"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "the process ended by SIGTERM"),
        ("print('hello')", "the worker wrote b'hello\\n', which is not a result"),
        ("print('[]')", "which is not a result"),
    ],
)
def test_one_that_ends_early_is_explained(code: str, expected: str, tmp_path: Path) -> None:
    problem, _ = run(tmp_path, code)
    assert problem is not None
    assert expected in problem
    assert "\n" not in problem


def test_one_that_is_silent_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    child = "p = __import__('subprocess').Popen(['sleep', '600'])"
    problem, heard = run(tmp_path, f"{child}\nsay('loaded', pids=[os.getpid(), p.pid])\ntime.sleep(600)", 1.0)
    assert problem == "no call ended within 1 s, so the process was stopped; allow more: --timeout SECONDS"
    worker_pid, below = heard[0]["pids"]
    assert gone(worker_pid)
    deadline = time.monotonic() + 30
    while not _is_dead(below) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _is_dead(below)


def _is_dead(pid: int) -> bool:
    """Gone, or waiting for whoever inherits it to notice."""
    stat = Path(f"/proc/{pid}/stat")
    return gone(pid) or (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_signs_of_life_keep_it_running(tmp_path: Path) -> None:
    problem, heard = run(tmp_path, "for _ in range(12): time.sleep(0.1); say('alive')\nsay('done')", 1.0)
    assert problem is None
    assert len(heard) == 13


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    pids: list[int] = []

    def hear(message: dict[str, Any]) -> None:
        pids.append(message["pid"])
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()

    code = "say('loaded', pid=os.getpid())\ntime.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        run_case({}, tmp_path, hear, silence_s=60, command=worker(code))
    assert gone(pids[0])


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    pipe = tmp_path / "images"
    os.mkfifo(pipe)  # nobody ever writes to it, so the worker waits for its images
    case = {"bundle": "x", "images": str(pipe)}
    child = subprocess.Popen(worker_command(), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(json.dumps(case).encode() + b"\n")
    child.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (1, b"")
