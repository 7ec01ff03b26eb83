"""The wheels, built for the session or named by CODA_TEST_DIST, and the Pythons that they are installed for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheels.environment import PYTHONS, ROOT, Environment, interpreters, problem

DIST = "CODA_TEST_DIST"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        metafunc.parametrize("python", interpreters(), indirect=True, scope="module")


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> str:
    """A Python to install for. One that somebody asked for has to be there."""
    name = str(request.param)
    reason = problem(name)
    if reason and os.environ.get(PYTHONS):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return name


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both wheels."""
    if os.environ.get(DIST):
        return Path(os.environ[DIST]).resolve()
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([ROOT / ".ci" / "wheels", folder], env={**os.environ, "PYTHON": sys.executable}, check=True)
    return folder


def wheel(dist: Path, package: str) -> str:
    (path,) = dist.glob(f"{package}-*.whl")
    return str(path)


@pytest.fixture(scope="module")
def runtime(python: str, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What a production application installs."""
    environment = Environment(python, tmp_path_factory.mktemp("runtime") / "venv")
    environment.install(f"{wheel(dist, 'coda_runtime')}[cpu,images,cli]")
    return environment


@pytest.fixture(scope="module")
def server(python: str, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What README tells to install for `coda serve`."""
    environment = Environment(python, tmp_path_factory.mktemp("server") / "venv")
    environment.install(f"{wheel(dist, 'coda_runtime')}[cpu,serve]")
    return environment
