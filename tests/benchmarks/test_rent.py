"""The one line for a rented machine, with the CPU as the device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coda_runtime.bench.reading import read_gpu_json, read_results

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "rent.sh"
TINY = ("--device", "cpu", "--shapes", "tiny", "--batches", "1", "--precisions", "fp32", "--seconds", "0.01")


def rent(out: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OUT": str(out), "EXTRAS": "cpu", "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(["sh", SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_rented_machine_is_measured_and_the_same_line_goes_on(tmp_path: Path) -> None:
    """The environment of the tests stands for the image: what it has stays as it is, and beside it lies the rest."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    out = tmp_path / "results"
    done = rent(out, *TINY, "--families", "torch", path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Installing into" in done.stdout
    assert len(read_gpu_json(out / "gpu.json")["rows"]) == 5
    again = rent(out, *TINY, "--families", "torch", "onnxruntime", path=path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Installing into" not in again.stdout
    (found,) = read_results(out / "gpu.json")
    assert {cell["backend"] for cell in found.data["cells"]} == {"torch-eager", "onnxruntime"}
    installed = {file.name.partition("-")[0] for file in (out / "venv").glob("lib/*/site-packages/*.dist-info")}
    assert installed >= {"coda_runtime", "coda_deploy"}
    assert not installed & {"torch", "numpy"}, "the image's own stay"
    assert (out / "triton" / "triton").is_dir()


def test_without_pytorch_it_says_what_to_run_it_in(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # -S: nothing that was installed
    python.chmod(0o755)
    tools = os.pathsep.join({str(Path(found).parent) for name in ("sh", "date") if (found := shutil.which(name))})
    done = rent(tmp_path / "out", path=f"{tmp_path / 'bin'}{os.pathsep}{tools}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.")
    assert done.stderr.endswith("has no PyTorch; expected 2.11 or newer: run this in an image that has it\n")
