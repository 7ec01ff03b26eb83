"""Encoder and quantizer as one graph, image uint8 [B, H, W, 3] -> ids int32 [B, L], for programs without Python."""

from __future__ import annotations

import onnx
from onnx import version_converter

from coda_runtime.format.parts import IDS, IMAGE, LATENT, QUANTIZER

_MARK = f"{QUANTIZER.name}/"
"""Before every name of the quantizer's in the joined graph."""


def encode_graph(encoder: onnx.ModelProto, quantizer: onnx.ModelProto) -> onnx.ModelProto:
    """Return one graph that computes what ``quantizer`` does of what ``encoder`` gives; both stay as they are.

    The quantizer's nodes follow the encoder's, as they were and in float32, under names of their own. The opset is the
    higher of the two. Raises ``ValueError`` where the encoder has a name that is the quantizer's.
    """
    joined = onnx.ModelProto()
    joined.CopyFrom(encoder)
    opset = max(_opset(encoder), _opset(quantizer))
    if _opset(joined) != opset:
        joined = version_converter.convert_version(joined, opset)
    second = onnx.ModelProto()
    second.CopyFrom(quantizer)
    if _opset(second) != opset:
        second = version_converter.convert_version(second, opset)
    _rename(second.graph, {LATENT.name: LATENT.name, IDS.name: IDS.name})
    graph = joined.graph
    taken = {IDS.name, *(name for node in second.graph.node for name in node.output)}
    taken |= {table.name for table in second.graph.initializer}
    if clash := taken & _names(graph):
        raise ValueError(f"the encoder's graph has a value {min(clash)!r}, which is a name of the quantizer's")
    graph.name = "coda_encode"
    graph.node.extend(second.graph.node)
    graph.initializer.extend(second.graph.initializer)
    del graph.output[:]
    graph.output.extend(second.graph.output)
    joined.ir_version = max(encoder.ir_version, quantizer.ir_version)
    return _finished(joined)


def _opset(model: onnx.ModelProto) -> int:
    """Return the opset of ONNX's own operators."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all values."""
    made = {name for node in graph.node for name in node.output}
    return made | {value.name for value in (*graph.input, *graph.initializer)}


def _rename(graph: onnx.GraphProto, outer: dict[str, str]) -> None:
    """Put the mark before each name that ``outer`` does not give; a subgraph reads names of the graphs around it."""
    names = {name: f"{_MARK}{name}" for name in _names(graph)} | outer
    names[""] = ""  # an input that is left out
    for node in graph.node:
        node.name = f"{_MARK}{node.name}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                inside = {name: value for name, value in names.items() if name not in _names(inner)}
                _rename(inner, inside)
                inner.name = f"{_MARK}{inner.name}"
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names[value.name]
    del graph.value_info[:]


def _finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, checked."""
    found = [value.name for value in (*model.graph.input, *model.graph.output)]
    if found != [IMAGE.name, IDS.name]:
        raise ValueError(f"the joined graph goes from {found[0]} to {', '.join(found[1:])}, not from image to ids")
    onnx.checker.check_model(model, full_check=True)
    return model
