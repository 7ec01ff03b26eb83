"""What OpenVINO computes a graph in, read from what it has compiled: it may take another type than it was asked for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ...errors import BackendError
from ...format.precision import FP32, Precision, precision_of

_CONVOLUTIONS = ("Convolution", "Deconvolution", "GroupConvolution")
_FLOAT = re.compile(r"b?f\d+")


@dataclass(frozen=True)
class Layer:
    """One layer of a compiled graph, as OpenVINO names it: "Convolution", "f32", "brgconv_avx512_f32"."""

    kind: str
    precision: str
    primitive: str

    @property
    def is_convolution(self) -> bool:
        """Whether it is one, of any kind."""
        return self.kind in _CONVOLUTIONS

    @property
    def is_float(self) -> bool:
        """Whether it gives numbers of floating point."""
        return _FLOAT.fullmatch(self.precision) is not None

    def __str__(self) -> str:
        return f"{self.kind} in {self.precision}"


def layers(compiled: Any) -> list[Layer]:
    """Return the layers of a compiled model."""
    found = []
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        found.append(Layer(*(about[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType"))))
    return found


def problem(compiled: Any, precision: Precision, file: str) -> BackendError | None:
    """Return why a compiled model does not compute in its precision, None where it does.

    In float32 every layer of floating point has to be float32. In another precision a share of the convolutions has to
    be in its type, and no layer in a floating-point type that is neither.
    """
    found = layers(compiled)
    allowed = f"{precision_of(FP32).openvino_pattern}|{precision.openvino_pattern}"
    strange = Counter(str(layer) for layer in found if layer.is_float and not re.fullmatch(allowed, layer.precision))
    if strange:
        return _not_kept(file, precision, ", ".join(f"{count} {what}" for what, count in sorted(strange.items())))
    convolutions = [layer for layer in found if layer.is_convolution]
    kept = sum(re.fullmatch(precision.openvino_pattern, layer.precision) is not None for layer in convolutions)
    if kept < precision.min_share * len(convolutions):
        return _not_kept(file, precision, f"{kept} of {len(convolutions)} convolutions in it")
    return None


def _not_kept(file: str, precision: Precision, found: str) -> BackendError:
    return BackendError(
        f"{file} is in {precision.name}, and this openvino would compute it with {found}; pass another backend or "
        "precision, or install the openvino of the project's constraints.txt"
    )
