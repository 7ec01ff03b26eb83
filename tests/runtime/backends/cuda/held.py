"""What tests of the layer hold on a device."""

from __future__ import annotations

from typing import Any


def current() -> int | None:
    """The number of the device whose context is the thread's."""
    from cuda.bindings import driver

    result, device = driver.cuCtxGetDevice()
    return int(device) if result == driver.CUresult.CUDA_SUCCESS else None


def filled(layer: Any, value: int) -> Any:
    """64 bytes of page-locked memory."""
    memory = layer.allocate_host(64)
    memory.array.fill(value)
    return memory


def handed_out(layer: Any, *streams: int | None) -> Any:
    """64 bytes of device memory that consumers on these streams have."""
    with layer.active():
        memory = layer.allocate(64, layer.create_stream())
    for stream in streams:
        memory.handed_out(stream)
    return memory
