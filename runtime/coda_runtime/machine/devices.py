"""What this machine offers, asked without importing an engine library."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from ..errors import DeviceError
from ..requirements import installed_version

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED, which cuInit answers in a child that was forked after CUDA began


@dataclass(frozen=True)
class Gpu:
    """One GPU: its model's name, its compute capability as "sm89", the CUDA version of its driver as "13.0".

    `uuid` is what nvidia-smi calls it, "GPU-" and five groups of digits: its numbers are those of the machine, while
    ours count what CUDA_VISIBLE_DEVICES shows, in CUDA_DEVICE_ORDER.
    """

    name: str
    capability: str
    driver: str
    uuid: str = ""


def find_gpu(index: int = 0) -> Gpu | None:
    """Find the GPU of this number, None without a driver or a GPU of that number. Makes no CUDA context."""
    driver, version = _cuda_driver(), cuda_driver_version()
    if driver is None or version is None:
        return None
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    number = ctypes.create_string_buffer(16)
    answers = (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(handle), index),
        driver.cuDeviceGetName(name, len(name), handle),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle),
    )
    if any(answers):
        return None
    told = hasattr(driver, "cuDeviceGetUuid_v2") and driver.cuDeviceGetUuid_v2(number, handle) == 0
    uuid = f"GPU-{UUID(bytes=number.raw)}" if told else ""
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", version, uuid)


def count_cuda_devices() -> int:
    """Count the GPUs that the NVIDIA driver shows to this process; 0 without a driver.

    Raises DeviceError in a child that was forked after CUDA began: there are GPUs, and it cannot use them.
    """
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    started = None if driver is None else driver.cuInit(0)
    if started == _NOT_INITIALIZED:
        raise DeviceError(
            "CUDA began before this process was forked, and does not run in the child: start processes by spawn, as "
            'multiprocessing.get_context("spawn") does, or to run on the CPU pass device="cpu"'
        )
    if driver is None or started != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_uuids() -> tuple[str, ...]:
    """Return nvidia-smi's name of each GPU that CUDA shows to this process, "cuda:0" first; see Gpu."""
    return tuple(gpu.uuid for gpu in map(find_gpu, range(count_cuda_devices())) if gpu is not None)


@contextmanager
def current_cuda_device(index: int) -> Iterator[None]:
    """Make a GPU the current one of this thread, as torch and the CUDA runtime see it, and put back what was before.

    Raises DeviceError where the driver does not do it.
    """
    driver, device, context = _cuda_driver(), ctypes.c_int(0), ctypes.c_void_p()
    if (
        driver is None
        or driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    ):
        raise DeviceError(f"the NVIDIA driver does not make cuda:{index} the current device; see `coda doctor`")
    try:
        if driver.cuCtxPushCurrent_v2(context):
            raise DeviceError(f"the NVIDIA driver does not make cuda:{index} the current device; see `coda doctor`")
        try:
            yield
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


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
