from __future__ import annotations

import ctypes
import re
from typing import Any

import pytest

from coda_runtime.machine import devices
from tests.runtime.backends.cuda import driver

COUNT = "from coda_runtime.machine.devices import *; print(count_cuda_devices(), cuda_driver_version())"
FIND = "from coda_runtime.machine.devices import find_gpu; print(*map(find_gpu, range(3)), sep='\\n')"


def test_the_driver_is_asked() -> None:
    count, version = driver.run(COUNT).stdout.split()
    assert count == "2"
    assert re.fullmatch(r"1[3-9]\.\d+", version)
    assert driver.run(COUNT, CUDA_VISIBLE_DEVICES="1").stdout.split()[0] == "1"


@pytest.mark.parametrize(("function", "answer"), [("cuInit", "0 "), ("cuDriverGetVersion", "2 None")])
def test_a_driver_that_fails(function: str, answer: str) -> None:
    assert driver.run(COUNT, STANDIN_FAIL=f"{function}=999").stdout.startswith(answer)


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


def test_gpus_by_number() -> None:
    first, second, third = driver.run(FIND).stdout.splitlines()
    told = r"Gpu\(name='Stand-in {0}', capability='sm90', driver='[\d.]+', uuid='GPU-0000000{0}(-0000){{3}}-0{{12}}'\)"
    assert re.fullmatch(told.format(0), first)
    assert re.fullmatch(told.format(1), second)
    assert third == "None"


def test_a_driver_that_does_not_start() -> None:
    assert driver.run(FIND, STANDIN_FAIL="cuInit=100").stdout.split() == ["None"] * 3


@pytest.mark.gpu
def test_the_real_gpu() -> None:
    gpu = devices.find_gpu()
    assert gpu is not None
    assert gpu.capability.startswith("sm")
