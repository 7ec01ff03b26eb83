"""Both wheels together in a fresh environment, with PyTorch: the demo runs on the photographs and the sample inside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.wheels.conftest import wheel
from tests.wheels.environment import Environment

pytestmark = pytest.mark.slow


def test_the_demo(dist: Path, tmp_path: Path) -> None:
    environment = Environment(sys.executable, tmp_path / "venv")
    environment.install(wheel(dist, "coda_runtime"), f"{wheel(dist, 'coda_deploy')}[cpu]")
    where = environment.run("python", "-c", "import coda_deploy, coda_export; print(coda_deploy.__file__)")
    assert Path(where.strip()).is_relative_to(environment.folder)
    environment.run("coda", "demo", "--out", "demo")
    demo = environment.folder / "demo"
    assert {path.name for path in demo.iterdir()} == {"tokenizer", "bundle", "report.html", "page"}
    environment.run("coda", "verify", demo / "bundle")
