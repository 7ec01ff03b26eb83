"""What everybody else gets: PyPI's PyTorch, which brings CUDA. Resolved by pip from metadata, without the gigabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wheels.conftest import wheel
from tests.wheels.environment import LIMIT, ROOT

pytestmark = pytest.mark.slow

# A Python and a system named outright, and no other index: pip then takes PyPI's build of PyTorch.
PYTHON = "3.12"
SYSTEM = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)]
SYSTEM += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "linux_x86_64", "any"]
# The Makefile's extras of coda-runtime, and of coda-deploy.
INSTALLED = {
    "demo": ("[cpu,images,cli]", ""),
    "test": ("[cpu,openvino,openvino-plugin,images,cli,hub,serve,bulk,nvtx]", "[dev]"),
}


@pytest.mark.parametrize("target", INSTALLED)
def test_it_resolves(target: str, dist: Path, tmp_path: Path) -> None:
    runtime, deploy = INSTALLED[target]
    line = f"-e 'runtime{runtime}' -e " + (f"'.{deploy}'" if deploy else ".")
    assert line in (ROOT / "Makefile").read_text(encoding="utf-8")
    report = tmp_path / "report.json"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--dry-run"]
    pip += ["--ignore-installed", "--only-binary=:all:", "--target", str(tmp_path / "nowhere")]
    pip += ["--python-version", PYTHON, *(f"--platform={system}" for system in SYSTEM)]
    pip += ["-c", str(ROOT / "constraints.txt"), "--report", str(report)]
    packages = [f"{wheel(dist, 'coda_runtime')}{runtime}", f"{wheel(dist, 'coda_deploy')}{deploy}"]
    variables = {name: value for name, value in os.environ.items() if name != "PIP_EXTRA_INDEX_URL"}
    done = subprocess.run([*pip, *packages], env=variables, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    versions = {entry["name"]: entry["version"] for entry in found}
    assert versions["torch"] == "2.13.0"
    assert any(name.startswith("nvidia-") for name in versions), "this is no PyTorch with CUDA"
