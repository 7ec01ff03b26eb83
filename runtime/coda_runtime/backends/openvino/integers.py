"""Whether OpenVINO adds products of bytes without a mistake on this processor: it is tried, once in a process.

Without the instructions for it (VNNI, AMX) an x86 processor adds pairs of products into 16 bits, which the largest ones
overflow. OpenVINO lets them: the latent is a third off, and nothing says so.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import library

_CHANNELS, _SIDE = 64, 8
_LARGEST = 127
_KERNELS = (3, 1)  # they are different programs
_TOLERANCE = 1e-3  # float32 adds what is left to be added; an overflow is off by a tenth and more

WITHOUT: dict[str, Any] = {"LP_TRANSFORMS_MODE": False}
"""The property that leaves a graph's integers to float32: rounded as before, multiplied and added without overflow."""


@functools.cache
def are_exact() -> bool:
    """Return whether the largest sums of a convolution of bytes come out right here. Raises as `library.core` does."""
    return all(_is_exact(kernel) for kernel in _KERNELS)


def _is_exact(kernel: int) -> bool:
    openvino, core = library.load_library(), library.core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    request = core.compile_model(_convolution(openvino, kernel), "CPU", settings).create_infer_request()
    batch = np.full((1, _CHANNELS, _SIDE, _SIDE), _LARGEST, np.float32)
    request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
    found = request.infer()[0]
    return bool(np.allclose(found, _LARGEST**2 * _CHANNELS * kernel**2, rtol=_TOLERANCE))


def _convolution(openvino: Any, kernel: int) -> Any:
    """Return a model float32 [1,C,S,S] -> [1,C,S',S'], quantised as an int8 bundle's convolutions are."""
    ops = openvino.opset13
    image = ops.parameter([1, _CHANNELS, _SIDE, _SIDE], np.float32)
    low, high = np.float32(-_LARGEST - 1), np.float32(_LARGEST)
    rounded = ops.fake_quantize(image, low, high, low, high, 256)
    weight = np.full((_CHANNELS, _CHANNELS, kernel, kernel), _LARGEST, np.int8)
    scaled = ops.multiply(ops.convert(ops.constant(weight), "f32"), np.ones((_CHANNELS, 1, 1, 1), np.float32))
    out = ops.convolution(rounded, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    return openvino.Model([out], [image], "largest_sum")
