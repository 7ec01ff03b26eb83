from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from coda_runtime.bench import machine
from coda_runtime.machine import memory

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def stat(folder: Path, busy_s: float, idle_s: float) -> None:
    """A /proc/stat in which each of our CPUs was busy and idle for so long, and another CPU all the time."""
    ticks = os.sysconf("SC_CLK_TCK")
    user, steal, idle, wait = (int(part * ticks) for part in (busy_s - 1, 1, idle_s - 1, 1))
    lines = [f"cpu{n} {user} 0 0 {idle} {wait} 0 0 {steal} 77 0" for n in CORES]
    lines = ["cpu  1 2 3 4 5 6 7 8 0 0", *lines, f"cpu{max(CORES) + 1} 999999 0 0 0 0 0 0 0 0 0", "intr 1 2"]
    (folder / "stat").write_text("\n".join(lines))


def test_what_others_use_is_what_is_busy_and_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [10.0]
    monkeypatch.setattr(os, "times", lambda: (ours[0], 0.0, 0.0, 0.0, 0.0))
    stat(tmp_path, 100, 200)
    watch = machine.CpuWatch(tmp_path)
    stat(tmp_path, 106, 204)  # of 10 s on each CPU, 6 were busy
    ours[0] += 2.0 * len(CORES)  # and 2 of them were ours
    assert watch.share() == pytest.approx(0.4)
    ours[0] += 1000
    assert watch.share() == 0


def test_where_the_system_does_not_tell_the_share_is_unknown(tmp_path: Path) -> None:
    assert machine.CpuWatch(tmp_path).share() is None
    stat(tmp_path, 100, 200)
    assert machine.CpuWatch(tmp_path).share() is None, "no time has passed"


def test_our_own_work_is_not_that_of_others() -> None:
    watch = machine.CpuWatch()
    end = os.times()[0] + 0.3
    while os.times()[0] < end:
        pass
    share = watch.share()
    assert share is None or share <= 1 - 0.3 / len(CORES) / 2


def test_the_description_says_what_is_here() -> None:
    found = machine.describe()
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["quota"] is None or found["cpu"]["quota"] > 0
    assert found["memory_bytes"] > 2**20
    assert found["libraries"]["numpy"] == np.__version__
    assert found["gpus"] == [] or found["gpus"][0]["name"]


def test_gpus_and_what_slows_them_as_nvidia_smi_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "uuid,index,name": [["GPU-b", "1", "A GPU", "570.1", "1024", "[N/A]", "1980", "700.00", "Enabled", "[N/A]"]],
        "clocks_throttle_reasons": [
            ["GPU-a", "0x0000000000000004"],
            ["GPU-b", "0x0000000000000024"],
            ["GPU-c", "[N/A]"],
        ],
        "compute-apps": [["1", "5"], [str(os.getpid()), "7"], [str(os.getpid()), "[N/A]"], [str(os.getpid()), "2"]],
    }

    def smi(query: str) -> list[list[str]]:
        return next((rows for name, rows in answers.items() if name in query), [])

    monkeypatch.setattr(machine, "nvidia_smi", smi)
    monkeypatch.setattr(machine, "gpu_uuids", lambda: ("GPU-a", "GPU-d", "GPU-c"))
    monkeypatch.setattr(memory, "nvidia_smi", smi)
    (gpu,) = machine.gpus()
    assert gpu == {
        "index": 1,
        "name": "A GPU",
        "driver": "570.1",
        "memory_bytes": 2**30,
        "clock_mhz": None,
        "max_clock_mhz": 1980.0,
        "power_limit_w": 700.0,
        "ecc": True,
        "mig": None,
    }
    monkeypatch.setattr(machine, "gpu_uuids", lambda: ("GPU-a", "GPU-b", "GPU-c"))
    assert [machine.gpu_slowed(index) for index in range(4)] == [False, True, None, None]
    assert memory.device_bytes() == 9 * 2**20
    answers.clear()
    assert memory.device_bytes() is None
