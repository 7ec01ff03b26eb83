from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.machine import processors
from tests.runtime.backends.onnxruntime import graphs


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 processors, two to a core, without a limit."""
    monkeypatch.setattr(processors, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(processors, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "_CPUS", tmp_path / "cpu")
    monkeypatch.setattr(processors, "usable_cpus", lambda: list(range(8)))
    for cpu in range(8):
        write(tmp_path / f"cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "features", "has"),
    [
        ("x86_64", {"AVX2": True, "FMA3": True, "AVX512F": True}, True),
        ("AMD64", {"AVX2": True, "FMA3": True}, True),
        ("x86_64", {"AVX2": True, "FMA3": False}, False),
        ("x86_64", {"AVX": True}, False),
        ("aarch64", {"AVX2": True, "FMA3": True}, False),
    ],
)
def test_avx2_is_that_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, name: str, features: dict[str, bool], has: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: name)
    monkeypatch.setattr("numpy._core._multiarray_umath.__cpu_features__", features)
    assert processors.has_avx2() is has


def test_a_machine_without_limits(machine: Path) -> None:
    for group in ("", "0::/\n", "0::/user.slice/a\n", "nonsense\n", "1:cpu:/\n"):
        write(machine / "proc/self/cgroup", group)
        write(machine / "cgroup/cpu.max", "max 100000\n")
        assert processors.cpu_quota() is None
        assert processors.default_threads() is None
        assert processors.usable_count() == 8
    (machine / "proc/self/cgroup").unlink()
    assert processors.cpu_quota() is None


@pytest.mark.parametrize(
    ("quota", "threads", "count"),
    [(0.5, 1, 1), (1, 1, 1), (1.5, 1, 1), (2, 2, 2), (3.9, 3, 3), (4, None, 4), (6, None, 6), (64, None, 8)],
)
def test_a_quota_bounds_the_threads(machine: Path, quota: float, threads: int | None, count: int) -> None:
    """By onnxruntime's own way there are 4, one a core."""
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "cgroup/cpu.max", f"{int(quota * 100_000)} 100000\n")
    assert processors.cpu_quota() == quota
    assert (processors.default_threads(), processors.usable_count()) == (threads, count)


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/docker/1234\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../1234\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:memory:/x\n1:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"}, 0.5),
        ("1:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "7", "cpu,cpuacct/cpu.cfs_period_us": "2"}, 3.5),
        ("1:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "50000 0"}, None),
        ("0::/\n", {"cpu.max": "nothing"}, None),
    ],
)
def test_groups_of_both_versions(machine: Path, group: str, files: dict[str, str], quota: float | None) -> None:
    write(machine / "proc/self/cgroup", group)
    for name, text in files.items():
        write(machine / "cgroup" / name, text)
    assert processors.cpu_quota() == quota


def test_a_session_takes_the_threads_of_the_quota(machine: Path, tmp_path: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "cgroup/cpu.max", "50000 100000\n")
    bundle, artifact = graphs.write_convolutions(tmp_path, "fp32")
    for threads, expected in ((None, 1), (3, 3)):
        session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu", threads=threads))
        assert session._session.get_session_options().intra_op_num_threads == expected  # type: ignore[attr-defined]
        session.close()


@pytest.mark.parametrize(
    ("cpus", "quota", "threads"),
    [
        ([0], None, 1),
        ([0, 4], None, 1),
        ([0, 1, 2], None, 3),
        ([0, 1, 2, 3], None, None),
        ([0, 1, 2], 2, 2),
        ([0, 1, 2], 64, 3),
        (list(range(8)), 0.1, 1),
    ],
)
def test_processors_that_others_have_are_not_counted(
    machine: Path, monkeypatch: pytest.MonkeyPatch, cpus: list[int], quota: float | None, threads: int | None
) -> None:
    """0 and 4 are one core. A library sees four cores, whatever this process may use."""
    monkeypatch.setattr(processors, "usable_cpus", lambda: cpus)
    if quota is not None:
        write(machine / "proc/self/cgroup", "0::/\n")
        write(machine / "cgroup/cpu.max", f"{int(quota * 100_000)} 100000\n")
    assert processors.default_threads() == threads


def test_a_processor_that_is_off_is_none_of_the_machines(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in (3, 7):
        shutil.rmtree(machine / f"cpu/cpu{cpu}/topology")
    monkeypatch.setattr(processors, "usable_cpus", lambda: [0, 1, 2, 4, 5, 6])
    assert processors.default_threads() is None


SESSION = """
import sys
from pathlib import Path
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.format.manifest import Artifact
from coda_runtime.machine.processors import default_threads
from tests.runtime.backends.onnxruntime import graphs
bundle, artifact = graphs.write_convolutions(Path(sys.argv[1]), "fp32")
session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu"))
session.run(graphs.images())
print(default_threads(), session._session.get_session_options().intra_op_num_threads)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone tells and sets the processors")
@pytest.mark.skipif(len(processors.usable_cpus()) < 2, reason="needs two processors")
def test_a_process_that_is_held_to_one_processor(tmp_path: Path) -> None:
    """By taskset, and by what it calls: one thread, where all of them would wait for each other on one processor."""
    (cpu, *_) = processors.usable_cpus()
    held = f"import os; os.sched_setaffinity(0, {{{cpu}}})\n{SESSION}"
    ways = [[sys.executable, "-c", held, str(tmp_path)]]
    if (taskset := shutil.which("taskset")) is not None:
        ways.append([taskset, "-c", str(cpu), sys.executable, "-c", SESSION, str(tmp_path)])
    for command in ways:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", "1"], done


def test_instructions_for_low_precisions() -> None:
    def found(*flags: str) -> dict[str, list[str] | None]:
        return processors.instructions_for({"flags": list(flags)})

    assert found() == {"bf16": None, "int8": None}
    assert found("avx2") == {"bf16": [], "int8": []}
    assert found("avx512f", "avx512_vnni", "avx512_bf16") == {"bf16": ["avx512_bf16"], "int8": ["avx512_vnni"]}
    assert found("asimd", "asimddp") == {"bf16": [], "int8": ["asimddp"]}
