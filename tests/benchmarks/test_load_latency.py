"""Latency under load, from end to end on the tiny bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_load_latency import busy_processes, control_group
from coda_runtime.machine.processors import usable_cpus
from tests.runtime import measurable

ROOT = Path(__file__).parents[2]


def test_each_number_of_threads_under_each_limit(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    quick = ["--seconds", "0.02", "--rounds", "1", "--threads", "auto,1", "--callers", "1,2", "--beside", "1"]
    command = [sys.executable, "-m", "benchmarks.bench_load_latency", measurable.make(tmp_path / "bundle"), *quick]
    subprocess.run([*command, "--quota", "0.5", "--json", out], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(out.read_text())
    limits = ["the whole machine", "beside 1 busy processes", f"bound to processor {usable_cpus()[0]}"]
    assert set(limits) <= found.keys()
    for limit in limits:
        rows = [(row["threads"], row["callers"]) for row in found[limit]]
        assert rows == [(None, 1), (None, 2), (1, 1), (1, 2)]
        assert all(0 < row["p50"] <= row["p99"] for row in found[limit])


INSIDE = """
import os
from benchmarks import limited_worker
def tell(): print(sorted(os.sched_getaffinity(0)), open("/proc/self/cgroup").read())
limited_worker.worker.main = tell
limited_worker.main()
"""


def test_the_worker_is_inside_its_limits() -> None:
    (cpu, *_) = usable_cpus()
    assert _inside("--cpus", str(cpu)).startswith(f"[{cpu}]")
    try:
        with control_group(0.5) as group:
            assert group.name in _inside("--group", str(group))
    except OSError:
        pytest.skip("no control group can be made here")
    assert not group.exists()


def test_busy_processes_end_with_the_block() -> None:
    with busy_processes(2) as running:
        assert [process.poll() for process in running] == [None, None]
    assert all(process.returncode is not None for process in running)


def _inside(*words: str) -> str:
    command = [sys.executable, "-c", INSIDE, *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
