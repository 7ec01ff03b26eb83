from __future__ import annotations

import ctypes
from typing import Any

import pytest

from coda_runtime import devices


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
