"""GPUs by number, each opened once for the process. Imports cuda-core only when asked for a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import TYPE_CHECKING

from ...errors import BackendError, DeviceError, MissingDependencyError, one_line
from ...machine.devices import Gpu, count_cuda_devices, find_gpu
from ...requirements import installed_version, needed, onnx_on_the_cpu, pip_install

if TYPE_CHECKING:
    from .device import CudaDevice

_lock = threading.Lock()
_opened: dict[int, CudaDevice] = {}

_ON_THE_CPU = 'to run on the CPU pass device="cpu"'


def missing(extra: str) -> MissingDependencyError | None:
    """Return None if cuda-core is installed, or else the error that names `extra`. Imports nothing."""
    try:
        found = importlib.util.find_spec("cuda.core") is not None
    except ModuleNotFoundError:  # there is no package `cuda` at all
        found = False
    if found:
        return None
    # Not all of `extra`: its library may be here, as a package for another CUDA than the extra's.
    why = "running engines on a GPU needs cuda-core, which is not installed"
    return MissingDependencyError(why, *needed("cuda"), extra=extra)


def open_device(index: int) -> CudaDevice:
    """Open GPU `index`.

    Raises DeviceError if it is missing or its driver is too old, BackendError if cuda-core fails.
    """
    with _lock:
        opened = _opened.get(index)
        if opened is None:
            _find(index)
            try:
                device = importlib.import_module(".device", __package__)
            except (ImportError, OSError, RuntimeError) as error:
                raise BackendError(
                    f"cuda-core is installed but does not import ({one_line(error)}); reinstall it: "
                    f"{pip_install('cuda-core', 'cuda-bindings', options='--force-reinstall')}"
                ) from error
            made: CudaDevice = device.CudaDevice(index)
            opened = _opened[index] = made
        return opened


def compute_capability(index: int) -> str:
    """Return the compute capability, such as "sm89". Makes no CUDA context.

    Raises DeviceError if it is not there or its driver is too old for the cuda-bindings that are installed.
    """
    return _find(index).capability


def driver_version(index: int) -> tuple[int, ...]:
    """Return the newest CUDA that the driver of a GPU runs, such as (13, 0). Raises as `compute_capability` does."""
    return tuple(map(int, _find(index).driver.split(".")))


def gpu_name(index: int) -> str:
    """Return the model, as the driver calls it. Makes no CUDA context. Raises as `compute_capability` does."""
    return _find(index).name


def _find(index: int) -> Gpu:
    found = count_cuda_devices()
    if not found:
        raise DeviceError(
            "engines need an NVIDIA GPU, and the NVIDIA driver shows none here (see nvidia-smi and "
            f"CUDA_VISIBLE_DEVICES); {_ON_THE_CPU}{onnx_on_the_cpu()}"
        )
    gpu = find_gpu(index) if index < found else None
    if gpu is None:
        raise DeviceError(
            f'device is "cuda:{index}", and the NVIDIA driver shows {found} GPUs here, from "cuda:0"; choose one of '
            f"those, or {_ON_THE_CPU}{onnx_on_the_cpu()}"
        )
    bindings = installed_version("cuda-bindings")
    if bindings is not None:
        check_driver(gpu.driver, bindings)
    return gpu


def check_driver(driver: str, bindings: str) -> None:
    """Raise DeviceError if the driver's CUDA version is of an older major version than cuda-bindings needs."""
    has, needed = int(driver.split(".")[0]), int(bindings.split(".")[0])
    if has < needed:
        raise DeviceError(
            f"the NVIDIA driver is for CUDA {driver}, and cuda-bindings {bindings} needs CUDA {needed}.0: update the "
            f'driver, or pip install "cuda-bindings=={has}.*"'
        )
