"""The GPU that an engine is built for or compared with, asked of the NVIDIA driver without any library of CUDA's."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """One GPU: its model's name, its compute capability as "sm89", the CUDA version of its driver as "13.0"."""

    name: str
    capability: str
    driver: str


def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU of this number, None without a driver or a GPU of that number."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    handle, version, name = ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(256)
    capability = [ctypes.c_int(0), ctypes.c_int(0)]
    answers = (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(handle), index),
        driver.cuDriverGetVersion(ctypes.byref(version)),
        driver.cuDeviceGetName(name, len(name), handle),
        driver.cuDeviceGetAttribute(ctypes.byref(capability[0]), _MAJOR, handle),
        driver.cuDeviceGetAttribute(ctypes.byref(capability[1]), _MINOR, handle),
    )
    if any(answers):
        return None
    major, minor = (number.value for number in capability)
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"sm{major}{minor}", cuda)
