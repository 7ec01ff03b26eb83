"""What this machine offers, asked without importing an engine library."""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata


def count_cuda_devices() -> int:
    """How many GPUs the NVIDIA driver shows to this process; 0 without a driver."""
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_driver_version() -> str | None:
    """The newest CUDA that the NVIDIA driver runs, such as "13.0"; None without a driver."""
    driver = _cuda_driver()
    version = ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _cuda_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def onnxruntime_conflict() -> bool:
    """True if onnxruntime and onnxruntime-gpu are both installed: they overwrite each other, and only the CPU works."""
    return installed_version("onnxruntime") is not None and installed_version("onnxruntime-gpu") is not None
