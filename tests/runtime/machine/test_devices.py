from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.machine import devices

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return FAIL; }
int cuDeviceGet(int *device, int index) { *device = index; return index < 2 ? 0 : 101; }
int cuDriverGetVersion(int *version) { *version = 12090; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device ? "Second" : "First", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 12 : 1; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
"""


class Driver:
    """libcuda's three calls: 2 GPUs, CUDA 13.2."""

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken

    def cuInit(self, _: int) -> int:  # noqa: N802
        return self.broken

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 2
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 13020
        return self.broken


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    assert (devices.count_cuda_devices(), devices.cuda_driver_version()) == (2, "13.2")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(broken=999))
    assert (devices.count_cuda_devices(), devices.cuda_driver_version()) == (0, None)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert (devices.count_cuda_devices(), devices.cuda_driver_version()) == (0, None)


@pytest.mark.parametrize("installed", ["onnxruntime", "onnxruntime-gpu"])
def test_one_onnxruntime_is_no_conflict(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    monkeypatch.setattr(devices, "installed_version", lambda name: "1" if name == installed else None)
    assert not devices.onnxruntime_conflict()


def test_two_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed_version", lambda name: "1")
    assert devices.onnxruntime_conflict()


def ask(folder: Path, fail: int) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the stand-in with")
    (folder / "driver.c").write_text(DRIVER)
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", f"-DFAIL={fail}", "-o", library, folder / "driver.c"], check=True)
    code = "from coda_runtime.machine.devices import find_gpu; print(find_gpu(), find_gpu(1), find_gpu(2), sep=' | ')"
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
    gpu = devices.find_gpu()
    assert gpu is not None
    assert gpu.capability.startswith("sm")
