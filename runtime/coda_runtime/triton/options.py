"""What may be chosen about a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..format.precision import PRECISIONS, how_to_add, precision_of

FORMATS = ("auto", "onnx", "tensorrt")
DEVICES = ("gpu", "cpu")
# What a bundle may also hold, and why Triton cannot serve it.
_NO_BACKEND = {
    "tensorrt-rtx": "Triton has no backend for TensorRT-RTX engines; build TensorRT's: coda build --engine tensorrt",
    "ptx": "Triton cannot run the quantizer's PTX kernels; the quantizer goes there as onnx or tensorrt",
}


@dataclass(frozen=True)
class RepositoryOptions:
    """How a bundle is served by Triton.

    `precision` is the name of one, or "auto": the bundle's default; the quantizer is always float32. `format`
    is "onnx", "tensorrt", or "auto": TensorRT where each part has an engine that was measured, else ONNX. `device` is
    "gpu" or "cpu" for ONNX; TensorRT needs "gpu". `max_batch` is the most images in a batch, None for what the engines
    take, or for ONNX as many as fill a run of `load`, 64 at most. `instances` is the copies of each model on a GPU,
    or on the CPU; `threads` those of one ONNX model on the CPU, None for all cores.

    `delay_us` is how long a request waits for others to join its batch, in microseconds. `max_queue` requests may wait
    for a model, each `timeout_ms` at most, in milliseconds; what is beyond that is refused.

    Raises InputError for values out of range and for what contradicts itself.
    """

    precision: str = "auto"
    format: str = "auto"
    device: str = "gpu"
    max_batch: int | None = None
    instances: int = 1
    threads: int | None = None
    delay_us: int = 1000
    max_queue: int = 64
    timeout_ms: int = 10_000

    def __post_init__(self) -> None:
        if self.format in _NO_BACKEND:
            raise InputError(_NO_BACKEND[self.format])
        for name, value, choices in (("format", self.format, FORMATS), ("device", self.device, DEVICES)):
            if value not in choices:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        if self.device == "cpu" and self.format == "tensorrt":
            raise InputError('TensorRT engines do not run on a CPU: take device "gpu", or format "onnx"')
        if self.device == "gpu" and self.threads is not None:
            raise InputError('threads are those of the CPU, and device is "gpu"; omit them, or take device "cpu"')
        for name, number, minimum, maximum in (
            ("max_batch", self.max_batch, 1, 4096),
            ("instances", self.instances, 1, 64),
            ("threads", self.threads, 1, 1024),
            ("delay_us", self.delay_us, 0, 10_000_000),
            ("max_queue", self.max_queue, 1, 1_000_000),
            ("timeout_ms", self.timeout_ms, 1, 3_600_000),
        ):
            if number is not None and not minimum <= number <= maximum:
                raise InputError(f"{name} is {number}; expected {minimum} to {maximum}")

    def choose_precision(self, available: Sequence[str]) -> str:
        """Return the precision to serve, of those that a bundle has, its default first.

        Raises InputError for one that is not there, and for bf16 on a CPU.
        """
        precision = available[0] if self.precision == "auto" else self.precision
        if precision not in available:
            known = f"precision is {precision!r}, and the bundle has {', '.join(available)}"
            raise InputError(f"{known}; {how_to_add(precision)}" if precision in PRECISIONS else known)
        if self.device == "cpu" and not precision_of(precision).onnxruntime_cpu:
            raise InputError(
                f"Triton's ONNX Runtime has no {precision} convolution for CPUs: serve fp32 there, or take a GPU"
            )
        return precision
