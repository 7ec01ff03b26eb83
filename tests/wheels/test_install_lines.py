"""Every line of the pages that installs something, run as it is printed, in a fresh environment each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from coda_runtime.requirements import DEPLOY_EXTRAS, RUNTIME_EXTRAS
from tests.docs.pages import commands, pages
from tests.wheels.environment import LIMIT, ROOT, Environment

pytestmark = pytest.mark.slow

LINES = sorted({line.text for page in pages() for line in commands(page) if line.text.startswith("pip install")})
# Not run here: PyTorch's own index, which no test asks.
OTHER_INDEX = "index-url"


def test_there_are_some() -> None:
    assert len(LINES) > 5
    assert sum(OTHER_INDEX in line for line in LINES) == 1


@pytest.mark.parametrize("line", [line for line in LINES if OTHER_INDEX not in line])
def test_it_installs(line: str, dist: Path, tmp_path: Path) -> None:
    environment = Environment(sys.executable, tmp_path / "venv")
    folder = ROOT
    if "dist/" in line:
        folder = tmp_path
        (tmp_path / "dist").symlink_to(dist)
    variables = {
        **environment.variables,
        "PATH": f"{environment.bin}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),  # without it a line that names none would bring CUDA
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", f"{line} -q --disable-pip-version-check"],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    environment.run("python", "-m", "pip", "check")
    asked = {extra for word in shlex.split(line) for extra in word.partition("[")[2].rstrip("]").split(",") if extra}
    extras = {**RUNTIME_EXTRAS, **DEPLOY_EXTRAS}
    names = {package.partition("[")[0] for extra in asked for package in extras[extra]}
    assert environment.run("python", "-m", "pip", "show", *names).count("Name: ") == len(names)
    if "cli" in asked or "serve" in asked:
        assert "encode" in environment.run("coda", "--help")
