"""The `coda` command in a process of its own, also where only some libraries are installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import coda_runtime
from tests.runtime import tiny

Run = Callable[..., subprocess.CompletedProcess[str]]
CODE = "import sys; from coda_runtime.cli import main; main()"


@pytest.fixture
def coda(tmp_path: Path) -> Run:
    """Runs `coda ...` in an empty folder, with warnings as errors."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)

    def run(*arguments: object, python: tuple[str, ...] = ("-W", "error")) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *python, "-c", CODE, *map(str, arguments)]
        return subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def fails(coda: Run, tmp_path: Path) -> Callable[..., str]:
    """Runs `coda ...`, which must fail with one line on stderr and leave the folder as it was; returns the line."""

    def run(*arguments: object) -> str:
        before = sorted((tmp_path / "work").rglob("*"))
        done = coda(*arguments)
        assert done.returncode == 1, done
        assert done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert sorted((tmp_path / "work").rglob("*")) == before
        return done.stderr

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of five pictures, two of them in a folder below, and other things."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(tiny.photos(5, 40, 60)):
        Image.fromarray(image).save(folder / ("more" if i > 2 else "") / f"{i}.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._0.png").write_text("not a picture either")
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Callable[..., subprocess.CompletedProcess[str]]]:
    """bare("numpy", ...) gives a `coda` in a process that can import these, coda_runtime, and nothing else."""
    site = Path(sysconfig.get_paths()["purelib"])

    def make(*packages: str) -> Callable[..., subprocess.CompletedProcess[str]]:
        path = tmp_path_factory.mktemp("site")
        (path / "coda_runtime").symlink_to(Path(coda_runtime.__file__).parent)
        for package in packages:
            for found in [site / package, *site.glob(f"{package}.libs"), *site.glob(f"{package}-*.dist-info")]:
                if found.exists():
                    (path / found.name).symlink_to(found)
        env = {**os.environ, "PYTHONPATH": str(path)}

        def run(*arguments: object, code: str = CODE) -> subprocess.CompletedProcess[str]:
            # -S leaves out site-packages, so what is not linked above is not there.
            command = [sys.executable, "-S", "-c", code, *map(str, arguments)]
            return subprocess.run(command, cwd=path, env=env, capture_output=True, text=True, timeout=300)

        return run

    return make
