"""What OpenVINO computes a graph in, read from what it has compiled: it may choose another type than it was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ...errors import BackendError
from ...format.precision import BF16, precision_of

CONVOLUTIONS = ("Convolution", "Deconvolution", "GroupConvolution")
_LOW = ("bf16", "f16")


@dataclass(frozen=True)
class Layer:
    """One layer of a compiled graph, as OpenVINO names it: "Convolution", "f32", "brgconv_avx512_f32"."""

    kind: str
    precision: str
    primitive: str


def layers(compiled: Any) -> list[Layer]:
    """Return the layers of a compiled model."""
    found = []
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        names = (about[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType"))
        found.append(Layer(*names))
    return found


def problem(compiled: Any, precision: str, file: str) -> BackendError | None:
    """Return why a compiled model is not what its precision promises, None where it is."""
    found = layers(compiled)
    convolutions = [layer for layer in found if layer.kind in CONVOLUTIONS]
    if precision == BF16:
        low = sum(layer.precision == "bf16" for layer in convolutions)
        if low < precision_of(precision).min_share * len(convolutions):
            return _not_kept(file, precision, f"{low} of {len(convolutions)} convolutions in it")
        return None
    lowered = Counter(f"{layer.kind} in {layer.precision}" for layer in found if layer.precision in _LOW)
    if lowered:
        return _not_kept(file, precision, ", ".join(f"{count} {what}" for what, count in sorted(lowered.items())))
    return None


def _not_kept(file: str, precision: str, found: str) -> BackendError:
    return BackendError(
        f"{file} is in {precision}, and this OpenVINO would compute it with {found}; pass "
        'backend="onnxruntime", or install the version of openvino that docs/engines.md names'
    )
