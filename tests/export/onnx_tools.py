"""Looking into ONNX graphs, and running them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

Shape = list[int | str]


def run(model: onnx.ModelProto, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: batch})
    return np.asarray(output)


def shape(info: onnx.ValueInfoProto) -> Shape:
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in info.type.tensor_type.shape.dim]


def signature(model: onnx.ModelProto) -> list[tuple[str, str, Shape]]:
    """(name, type, shape) of the inputs and outputs."""
    infos = [*model.graph.input, *model.graph.output]
    return [(i.name, onnx.TensorProto.DataType.Name(i.type.tensor_type.elem_type), shape(i)) for i in infos]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def tables(model: onnx.ModelProto, at_least: int = 1024) -> dict[str, bytes]:
    """Initializers and constants of more than ``at_least`` bytes, by name."""
    found: dict[str, bytes] = {}
    for graph in graphs(model.graph):
        tensors = [(tensor.name, tensor) for tensor in graph.initializer]
        tensors += [(node.output[0], a.t) for node in graph.node for a in node.attribute if a.name == "value"]
        for name, tensor in tensors:
            content = numpy_helper.to_array(tensor).tobytes()
            if len(content) > at_least:
                found[name] = content
    return found


def intermediate_shapes(model: onnx.ModelProto, batch: int) -> dict[str, Shape]:
    """The shape of every tensor that a node makes, in all graphs, for a fixed batch; fails where one is unknown."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for info in (*fixed.graph.input, *fixed.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
    out: dict[str, Shape] = {}
    for graph in graphs(inferred.graph):
        known = {info.name: shape(info) for info in (*graph.value_info, *graph.output)}
        for node in graph.node:
            for name in node.output:
                assert name in known, f"{node.op_type} makes {name}, of unknown shape"
                out[f"{graph.name}/{name}"] = known[name]
    return out
