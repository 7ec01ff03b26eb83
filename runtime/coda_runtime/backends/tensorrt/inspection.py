"""What a built engine computes in, from the inspector of TensorRT: an engine in bf16 that is float32 inside is no use.

The inspector says so only for engines that were built with ProfilingVerbosity.DETAILED.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import BuildError
from ...format.precision import PRECISIONS, precision_of

_TYPES = (
    *((known.name, re.compile(known.tensorrt_pattern, re.IGNORECASE)) for known in reversed([*PRECISIONS.values()])),
    ("integer", re.compile(r"u?int\d+|bool", re.IGNORECASE)),
)
# TensorRT-RTX calls a convolution a correlation, and one with what follows it a runtime fusion.
_CONVOLUTIONS = re.compile(r"conv|correlation|runtime_fusion", re.IGNORECASE)
_PRODUCTS = re.compile(rf"{_CONVOLUTIONS.pattern}|gemm|mat(rix)?_?mul|fully_?connected|mha|attention", re.IGNORECASE)
_TENSORS, _UNKNOWN = "tensors", "unknown"


@dataclass(frozen=True)
class EngineFacts:
    """What an engine tells of itself once it is loaded.

    `layers` is the inspector's JSON. `scratch_bytes` is the device memory that one context of each batch profile works
    in, besides its input and output.
    """

    layers: str
    scratch_bytes: tuple[int, ...]


def engine_information(engine: Any, trt: Any) -> str:
    """Return the inspector's JSON."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def check_precision(info_json: str, precision: str) -> None:
    """Raise BuildError if an engine in a lowered precision computes its convolutions in something else.

    Where none tells its type, the matrix products decide, some of which are float32 in any precision. Where no product
    does, as when the library has fused all into one, any tensor of the type will do. Other precisions pass.
    """
    wanted = precision_of(precision)
    if not wanted.is_lowered:
        return
    counted, known = _told(_layers(info_json))
    enough = precision in known if counted == _TENSORS else known.count(precision) / len(known) >= wanted.min_share
    if not enough:
        counts = ", ".join(f"{count} in {name}" for name, count in sorted(Counter(known).items())) or "none of any type"
        raise BuildError(
            f"the engine is to compute in {precision}, and of its {counted} there are {counts}: the graph it was built "
            f"from is not in {precision}; export the bundle again with --precision {precision}"
        )


def _told(layers: list[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return what tells its types in an engine, and those types."""
    for counted, pattern in (("convolutions", _CONVOLUTIONS), ("matrix products", _PRODUCTS)):
        found = [_layer_type(layer) for layer in layers if pattern.search(_kind(layer))]
        known = [kind for kind in found if kind != _UNKNOWN]
        if known:
            return counted, known
    return _TENSORS, [kind for layer in layers for kind in _tensor_types(layer) if kind != _UNKNOWN]


def _layers(info_json: str) -> list[Mapping[str, Any]]:
    try:
        data = json.loads(info_json)
    except ValueError as error:
        raise BuildError(f"the engine's inspector gave no JSON ({error}); reinstall TensorRT") from error
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(layers, list) or not layers:
        raise BuildError("the engine's inspector lists no layers; build the engine again: coda build")
    if not all(isinstance(layer, dict) for layer in layers):
        raise BuildError(
            "the engine's inspector lists names only: it was built without ProfilingVerbosity.DETAILED; build it again"
        )
    return layers


def _kind(layer: Mapping[str, Any]) -> str:
    return f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"


def _layer_type(layer: Mapping[str, Any]) -> str:
    """Return the type of the first floating-point input; else of the weights, of an output, of an integer input."""
    inputs, outputs = _side(layer, "Inputs"), _side(layer, "Outputs")
    weights = layer.get("Weights")
    own = [_type(weights.get("Type"))] if isinstance(weights, dict) else []
    found = [name for name in (*inputs, *own, *outputs) if name != _UNKNOWN]
    return next((name for name in found if name != "integer"), found[0] if found else _UNKNOWN)


def _tensor_types(layer: Mapping[str, Any]) -> list[str]:
    return [*_side(layer, "Inputs"), *_side(layer, "Outputs")]


def _side(layer: Mapping[str, Any], side: str) -> list[str]:
    tensors = layer.get(side)
    if not isinstance(tensors, list):
        return []
    # TensorRT 10 tells format and type in one text; 11 and TensorRT-RTX tell the type apart.
    keys = ("Format/Datatype", "Datatype", "DataType", "Format")
    told = [tensor for tensor in tensors if isinstance(tensor, dict)]
    return [_type(next((tensor[key] for key in keys if key in tensor), None)) for tensor in told]


def _type(text: object) -> str:
    return next((name for name, pattern in _TYPES if isinstance(text, str) and pattern.search(text)), _UNKNOWN)
