"""What is asked of the NVIDIA driver, asked of a stand-in with its functions: the real one needs a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coda_runtime.engines.gpu import find_gpu

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return FAIL; }
int cuDeviceGet(int *device, int index) { *device = index; return index < 2 ? 0 : 101; }
int cuDriverGetVersion(int *version) { *version = 12090; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device ? "Second" : "First", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 12 : 1; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
"""


def ask(folder: Path, fail: int) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the stand-in with")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", f"-DFAIL={fail}", "-o", library, folder / "driver.c"], check=True)
    code = "from coda_runtime.engines.gpu import find_gpu; print(find_gpu(), find_gpu(1), find_gpu(2), sep=' | ')"
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_gpus_by_number(tmp_path: Path) -> None:
    first, second, third = ask(tmp_path, 0).strip().split(" | ")
    assert first == "Gpu(name='First', capability='sm121', driver='12.9')"
    assert "Second" in second
    assert third == "None"


def test_a_driver_that_does_not_start(tmp_path: Path) -> None:
    assert ask(tmp_path, 100).split() == ["None", "|", "None", "|", "None"]


@pytest.mark.gpu
def test_the_real_gpu() -> None:
    gpu = find_gpu()
    assert gpu is not None
    assert gpu.capability.startswith("sm")
