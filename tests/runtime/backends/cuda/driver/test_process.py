"""Tests in a process of their own are reported as any other: passed, failed, skipped, and lost where it crashed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.runtime.backends.cuda import driver

MODULE = """
import ctypes, os, pytest

pytestmark = pytest.mark.driver

def test_passes():
    count = ctypes.c_int()
    library = ctypes.CDLL("libcuda.so.1")
    assert library.cuInit(0) == library.cuDeviceGetCount(ctypes.byref(count)) == 0
    assert count.value == 2

def test_fails():
    assert "a" == "b", "as it should"

def test_skips():
    pytest.skip("not here")

@pytest.mark.skipif("CRASH" not in os.environ, reason="without a crash")
def test_crashes():
    os.abort()

def test_after():
    pass
"""


def outcome(folder: Path, *options: str, **env: str) -> str:
    driver.build()
    (folder / "test_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-rA", "-W", "ignore", "-p", f"{driver.__name__}.process", *options]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CODA_TESTS_"))}
    path = os.pathsep.join(map(str, (driver.ROOT, driver.ROOT / "runtime")))
    done = subprocess.run(
        [*command, "--rootdir", folder, folder / "test_module.py"], cwd=folder, check=False,
        env={**outside, "PYTHONPATH": path, **env}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_each_is_a_test_of_its_own(tmp_path: Path) -> None:
    told = outcome(tmp_path)
    assert "1 failed, 2 passed, 2 skipped" in told, told[-3000:]
    assert "AssertionError: as it should" in told


def test_a_crash_is_a_failure_of_the_tests_that_are_left(tmp_path: Path) -> None:
    told = outcome(tmp_path, "-k", "passes or crashes or after", CRASH="1")
    assert "1 passed" in told
    assert "2 failed" in told
    assert "ended before this one did" in told
    assert "Fatal Python error: Aborted" in told
