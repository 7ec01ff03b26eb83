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
    """Raise BuildError if an engine in a lowered precision has the products that it lowers in something else.

    Where the inspector shows no product whose type it tells, as when the library has fused all into one, any tensor
    of that type will do. Other precisions pass.
    """
    wanted = precision_of(precision)
    if not wanted.is_lowered:
        return
    layers = _layers(info_json)
    lowered = _PRODUCTS if wanted.lowers_matmul else _CONVOLUTIONS
    products = [layer for layer in layers if lowered.search(_kind(layer))]
    known = [found for found in map(_layer_type, products) if found != "unknown"]
    if known:
        counted = "convolutions and matrix products" if wanted.lowers_matmul else "convolutions"
        share = known.count(precision) / len(known)
        enough = share >= wanted.min_share
    else:
        types = [found for layer in layers for found in _tensor_types(layer) if found != "unknown"]
        known, counted = types, "tensors"
        enough = precision in types
    if not enough:
        counts = ", ".join(f"{count} in {name}" for name, count in sorted(Counter(known).items())) or "none of any type"
        raise BuildError(
            f"the engine is to compute in {precision}, and of its {counted} there are {counts}: the graph it was built "
            f"from is not in {precision}; export the bundle again with --precision {precision}"
        )


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
    found = [name for name in (*inputs, *own, *outputs) if name != "unknown"]
    return next((name for name in found if name != "integer"), found[0] if found else "unknown")


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
    return next((name for name, pattern in _TYPES if isinstance(text, str) and pattern.search(text)), "unknown")
