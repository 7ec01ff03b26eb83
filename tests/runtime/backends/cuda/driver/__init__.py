"""A stand-in for the CUDA driver, written in C, under the real cuda-core and cuda-bindings: no GPU is needed.

A test marked `driver` runs in a process that finds the stand-in as its libcuda.so.1 (`process.py`), and steers it by
the fixture `driver` (`controls.py`). A test fails where something was done that CUDA forbids: a breach. `run` starts a
script on it. What the stand-in does not model: time, several GPUs that see each other's memory, managed memory, events
between processes, and branches inside a graph, whose nodes run one after the other.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[4]
INSIDE = "CODA_TESTS_DRIVER"
"""Set in processes that run on the stand-in: its folder."""


@functools.cache
def missing() -> str | None:
    """Return what is missing to build and use it, None where nothing is."""
    if sys.platform != "linux":
        return "the stand-in for the CUDA driver is built on Linux only"
    if shutil.which("cc") is None:
        return "no C compiler to build the stand-in for the CUDA driver with"
    if _header() is None:
        return "no cuda.h to build the stand-in for the CUDA driver with: Triton, which brings it, is not installed"
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        return "cuda-core is not installed"
    return None


@functools.cache
def build() -> Path:
    """Compile it, once for a process, and return the folder of libcuda.so.1."""
    if INSIDE in os.environ:
        return Path(os.environ[INSIDE])
    lacks = missing()
    if lacks is not None:
        pytest.skip(lacks)
    kept = tempfile.TemporaryDirectory(prefix="coda-driver-")
    _kept.append(kept)
    header = _header()
    assert header is not None
    folder = Path(kept.name)
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", f"-I{header}"]
    command += [
        "-o",
        folder / "libcuda.so.1",
        "-Wl,-soname,libcuda.so.1",
        *sorted(HERE.glob("*.c")),
        "-pthread",
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return folder


_kept: list[tempfile.TemporaryDirectory[str]] = []


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that is to run on it."""
    folder = str(build())
    paths = [folder, os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths)), INSIDE: folder, **more}


def run(code: str, *arguments: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script on it, in a process of its own; where `check` is set, it has to succeed."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment(**env), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def _header() -> Path | None:
    found = importlib.util.find_spec("triton")
    folders = (found.submodule_search_locations or []) if found is not None else []
    headers = [Path(folder) / "backends" / "nvidia" / "include" / "cuda.h" for folder in folders]
    return next((header.parent for header in headers if header.exists()), None)
