"""How a processor is started, and that a switch without effect is told."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.portability import probe, processors
from benchmarks.portability.processors import EMULATED, NATIVE, NATIVE_TORCH, Processor

ROOT = Path(__file__).parents[3]
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="it compares instruction sets of x86-64")
FORCED = processors.forced(("X86_V3", "X86_V4"), ("X86_V3", "X86_V4"))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (["SSE42", "X86_V2"], "SSE4.2"),
        (["SSE42", "AVX"], "AVX"),
        (["SSE42", "AVX", "AVX2"], "AVX"),  # without FMA no AVX2 kernel runs
        (["SSE42", "AVX", "AVX2", "FMA3"], "AVX2"),
        (["SSE42", "AVX", "AVX2", "FMA3", "AVX512F", "AVX512VNNI"], "AVX-512"),
    ],
)
def test_the_highest_instruction_set(features: list[str], expected: str) -> None:
    assert processors.highest_set(features) == expected


def test_only_an_emulated_processor_is_started_by_qemu() -> None:
    assert EMULATED[-1].command("python") == ["qemu-x86_64", "-cpu", "Nehalem", "python"]
    assert all(which.command("python") == ["python"] for which in (NATIVE, NATIVE_TORCH, *FORCED))


def test_switches_of_this_environment_reach_this_machine_s_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "SkylakeX")
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    assert NATIVE.environment() == dict(os.environ)
    assert not set(EMULATED[0].environment()) & set(processors.SWITCHES)
    assert FORCED[1].environment().items() >= FORCED[1].switches.items()
    assert FORCED[1].environment()["OPENBLAS_CORETYPE"] == "Nehalem"
    assert set(FORCED[0].switches) == set(FORCED[1].switches) == set(processors.SWITCHES)


def test_numpy_is_told_to_leave_out_only_what_is_there() -> None:
    avx2, least = processors.forced(("X86_V3", "X86_V4", "AVX512_SPR"), ("X86_V2", "X86_V3", "X86_V4"))
    assert avx2.switches["NPY_DISABLE_CPU_FEATURES"] == "X86_V4"
    assert least.switches["NPY_DISABLE_CPU_FEATURES"] == "X86_V4 X86_V3"


def test_what_onednn_and_mkl_say() -> None:
    text = (
        "onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2\nonednn_verbose,v1,info,cpu,isa:Intel SSE4.1\n"
        "MKL_VERBOSE SGEMM(N,N,64) 33.87ms CNR:COMPATIBLE Dyn:1 FastMM:1 TID:0  NThr:2\n"
    )
    assert processors.verbose_report(text) == {"oneDNN": "Intel SSE4.1", "MKL": "COMPATIBLE"}
    assert processors.verbose_report("{}") == {}


def test_a_switch_without_effect_is_reported() -> None:
    expected = dict(FORCED[0].expected)
    assert processors.not_in_effect(FORCED[0], expected) == []
    assert processors.not_in_effect(FORCED[0], expected | {"ATen": "AVX512"}) == ["ATen runs as AVX512, expected AVX2"]
    del expected["oneDNN"]
    assert processors.not_in_effect(FORCED[0], expected) == ["oneDNN runs as unknown, expected Intel AVX2"]
    nehalem = EMULATED[-1]
    assert processors.not_in_effect(nehalem, {"processor": "SSE4.2"}) == []
    assert processors.not_in_effect(nehalem, {"processor": "AVX2"}) == ["processor runs as AVX2, expected SSE4.2"]
    assert processors.not_in_effect(NATIVE, {"processor": "AVX2"}) == []


@on_x86
def test_the_probe_sees_numpy_held_back() -> None:
    least = processors.forced(probe.dispatched(), probe.features())[1]
    asked = Processor("", "torch", expected={name: least.expected[name] for name in ("NumPy", "OpenBLAS")})
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.portability.probe"],
                env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
            ).stdout.splitlines()[-1]
        )
        for environment in (least.environment(), EMULATED[0].environment())
    ]  # fmt: skip
    assert processors.not_in_effect(asked, found[0]) == []
    assert processors.not_in_effect(asked, found[1]) != [] or processors.highest_set(probe.features()) == "SSE4.2"


@on_x86
def test_without_qemu_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.portability"],
        env=os.environ | {"PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "qemu-x86_64 is not installed" in done.stderr
    assert "qemu-user" in done.stderr
