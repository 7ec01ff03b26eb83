"""What this machine offers, asked without importing an engine library."""

from __future__ import annotations

import ctypes
import shutil
import sys
from dataclasses import dataclass

from ..requirements import installed_version

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """One GPU: its model's name, its compute capability as "sm89", the CUDA version of its driver as "13.0"."""

    name: str
    capability: str
    driver: str


def find_gpu(index: int = 0) -> Gpu | None:
    """Find the GPU of this number, None without a driver or a GPU of that number. Makes no CUDA context."""
    driver, version = _cuda_driver(), cuda_driver_version()
    if driver is None or version is None:
        return None
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    answers = (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(handle), index),
        driver.cuDeviceGetName(name, len(name), handle),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle),
    )
    if any(answers):
        return None
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", version)


def count_cuda_devices() -> int:
    """Count the GPUs that the NVIDIA driver shows to this process; 0 without a driver."""
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_driver_version() -> str | None:
    """Return the newest CUDA that the NVIDIA driver runs, such as "13.0"; None without a driver."""
    driver = _cuda_driver()
    version = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def nvidia_smi(query: str) -> list[list[str]]:
    """Return the rows that nvidia-smi answers to a --query-..., as text; none where it is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    import subprocess  # here alone: every `load` imports this module, and few machines have nvidia-smi

    command = [tool, query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def _cuda_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def onnxruntime_conflict() -> bool:
    """Return True if onnxruntime and onnxruntime-gpu are both installed: they overwrite each other: only CPU works."""
    return installed_version("onnxruntime") is not None and installed_version("onnxruntime-gpu") is not None
