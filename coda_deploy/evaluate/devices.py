"""Where PyTorch runs in an evaluation, and in which arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_runtime.backends.base import LoadOptions
from coda_runtime.errors import DeviceError
from coda_runtime.machine.processors import default_threads


def torch_device(device: str) -> torch.device:
    """Return PyTorch's device for "auto" (a GPU where PyTorch has one), "cpu", "cuda" or "cuda:N".

    Raises ``InputError`` for another word, ``DeviceError`` for a GPU that PyTorch does not have.
    """
    index, there = LoadOptions(device).cuda_index(), _gpus()
    if index is None:
        return torch.device("cuda:0" if device == "auto" and there else "cpu")
    if index >= there:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU"
        raise DeviceError(
            f"device is {device!r}, and PyTorch {torch.__version__} ({build}) sees {there} NVIDIA GPUs: "
            "give --device cpu, or install a PyTorch and a driver that fit the GPU"
        )
    return torch.device("cuda", index)


def network_device(device: str) -> torch.device:
    """Return where LPIPS's and rFID's networks run beside something on ``device``: there if PyTorch can, else the CPU.

    An engine library may have a GPU that PyTorch lacks. Raises ``InputError`` for a word that is not a device.
    """
    index = LoadOptions(device).cuda_index() or 0
    return torch.device("cuda", index) if device != "cpu" and index < _gpus() else torch.device("cpu")


def to_tensor(images: NDArray[np.generic], device: torch.device) -> Tensor:
    """Put an array on ``device``; copied where it is read-only, which PyTorch warns about."""
    return torch.from_numpy(images if images.flags.writeable else images.copy()).to(device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run PyTorch on ``count`` threads, and afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads_of_quota() -> Iterator[None]:
    """Run PyTorch on no more threads than a container's CPU quota gives, which it does not look at."""
    quota = default_threads()
    with nullcontext() if quota is None else torch_threads(min(quota, torch.get_num_threads())):
        yield


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
