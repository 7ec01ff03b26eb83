"""What runs through a graph's convolutions on real images: the numbers that int8's scales are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from coda_runtime.backends.onnxruntime.library import SILENT, load_library
from coda_runtime.errors import InputError
from coda_runtime.machine.processors import default_threads


@dataclass(frozen=True)
class Range:
    """The least and the greatest number of each channel, float32 [C]."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    is_flat: bool
    """Whether each image gave each channel one number alone."""

    @property
    def largest(self) -> NDArray[np.float32]:
        """The largest magnitude of each channel, [C]."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def joined(self, other: Range) -> Range:
        """Return the range of both."""
        flat = self.is_flat and other.is_flat
        return Range(np.minimum(self.low, other.low), np.maximum(self.high, other.high), flat)


def measure(model: onnx.ModelProto, tensors: Sequence[str], inputs: NDArray[Any]) -> dict[str, Range]:
    """Return the range of each of ``tensors``, [B, C, h, w] in ``model``, over ``inputs`` [N, ...], run one by one.

    Only the ranges leave the graph, so memory is that of one image.
    """
    ort = load_library()
    settings = ort.SessionOptions()
    settings.log_severity_level = SILENT
    if (threads := default_threads()) is not None:
        settings.intra_op_num_threads = threads
    names = [name for tensor in tensors for name in _ends(tensor)]
    session = ort.InferenceSession(
        _with_ends(model, tensors).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    (entry,) = model.graph.input
    found: dict[str, Range] = {}
    for row in inputs:
        ends = [end.reshape(-1) for end in session.run(names, {entry.name: row[None]})]
        for tensor, negated, high in zip(tensors, ends[::2], ends[1::2], strict=True):
            here = Range(-negated, high, bool((-negated == high).all()))
            found[tensor] = found[tensor].joined(here) if tensor in found else here
    return found


def check(layer: str, read: Range, images: int) -> None:
    """Raise ``InputError`` naming a layer that reads what says nothing of its scale.

    That is what is no number, or in each of the images nothing but one number a channel: an image of one colour.
    """
    low, high = float(read.low.min()), float(read.high.max())
    if not np.isfinite((low, high)).all():
        found = f"{low:g} to {high:g}"
    elif read.is_flat:
        found = "nothing but one number a channel"
    else:
        return
    raise InputError(
        f"the layer {layer} reads {found} in each of the {images} calibration images, which gives no scale for int8: "
        "calibrate on photographs like those to be encoded (--calibration DIR), or on those that ship (without it)"
    )


def _ends(tensor: str) -> tuple[str, str]:
    return f"{tensor}/negated", f"{tensor}/high"


def _with_ends(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy that returns each channel's greatest number and that of its negative, pooled over all of it."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in tensors:
        low, high = _ends(tensor)
        made.graph.node.extend(
            [
                helper.make_node("Neg", [tensor], [f"{tensor}/minus"]),
                helper.make_node("GlobalMaxPool", [f"{tensor}/minus"], [low]),
                helper.make_node("GlobalMaxPool", [tensor], [high]),
            ]
        )
        for name in (low, high):
            made.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return made
