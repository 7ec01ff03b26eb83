"""Graphs with other ends: one that gives its layers, and one in which every layer is an island fed from outside.

Both have one input and one output, which is what every backend runs: tensors leave and enter as one row of float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from coda_export.layers.graph import Graph
from coda_export.layers.names import Layer

_OUT, _IN = "coda_layers", "coda_given"


def exposing(graph: Graph, layers: Sequence[Layer]) -> onnx.ModelProto:
    """Return the graph as far as ``layers`` need it, with all of them, flat and one after another, as its output."""
    nodes = _in_order(graph, graph.before([layer.tensor for layer in layers]))
    return _model(graph, [*nodes, *_leaving(graph, layers)], graph.model.graph.input[0], {})


def islands(graph: Graph, layers: Sequence[Layer], given: Sequence[Layer], cut: Sequence[Layer]) -> onnx.ModelProto:
    """Return a graph of ``layers`` alone, each computed from what it reads of ``given``, which is the graph's input.

    ``cut`` are the layers at whose outputs the graph is cut. ``given`` holds all of them that ``layers`` read.
    """
    entering = {name: layer for layer in cut for name in _read_as(graph, layer)}
    nodes: list[NodeProto] = []
    for layer in layers:
        own = graph.copies(layer.tensor)
        nodes += graph.before([layer.tensor], {name for name in entering if name not in own})
    kept = []
    for node in _in_order(graph, nodes):
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [_entry(entering[name]) if name in entering else name for name in node.input]
        kept.append(copy)
    size = sum(int(np.prod(layer.shape)) for layer in given)
    row = helper.make_tensor_value_info(_IN, TensorProto.FLOAT, ["batch", size])
    # What reads the graph's own input here asks for its shape only.
    shape = graph.shape(graph.input)
    kind = helper.tensor_dtype_to_np_dtype(graph.element_type(graph.input))
    rest = {} if shape is None else {graph.input: np.zeros(shape, kind)}
    return _model(graph, [*_entering(graph, given), *kept, *_leaving(graph, layers)], row, rest)


def _read_as(graph: Graph, layer: Layer) -> set[str]:
    """Return the names under which others read a layer's output: not what its own QuantizeLinear reads."""
    copies = graph.copies(layer.tensor)
    return copies if len(copies) == 1 else {name for name in copies if graph.maker[name].op_type == "DequantizeLinear"}


def _entry(layer: Layer) -> str:
    return f"{_IN}/{layer.tensor}"


def _entering(graph: Graph, given: Sequence[Layer]) -> list[NodeProto]:
    sizes = [int(np.prod(layer.shape)) for layer in given]
    rows = [f"{_entry(layer)}/row" for layer in given]
    nodes = [
        _constant(f"{_IN}/sizes", sizes),
        helper.make_node("Split", [_IN, f"{_IN}/sizes"], rows, axis=1),
    ]
    for layer, row in zip(given, rows, strict=True):
        shaped, kind = f"{_entry(layer)}/shaped", graph.element_type(layer.tensor)
        nodes += [
            _constant(f"{shaped}/shape", layer.shape),
            helper.make_node("Reshape", [row, f"{shaped}/shape"], [shaped]),
            helper.make_node("Cast", [shaped], [_entry(layer)], to=kind),
        ]
    return nodes


def _leaving(graph: Graph, layers: Sequence[Layer]) -> list[NodeProto]:
    nodes, rows = [_constant(f"{_OUT}/flat", [1, -1])], []
    for layer in layers:
        name = f"{_OUT}/{layer.tensor}"
        nodes += [
            helper.make_node("Cast", [layer.tensor], [f"{name}/float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{name}/float", f"{_OUT}/flat"], [name]),
        ]
        rows.append(name)
    return [*nodes, helper.make_node("Concat", rows, [_OUT], axis=1)]


def _constant(name: str, values: Iterable[int]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array([*values], np.int64)))


def _in_order(graph: Graph, nodes: Iterable[NodeProto]) -> list[NodeProto]:
    wanted = {id(node) for node in nodes}
    return [node for node in graph.nodes if id(node) in wanted]


def _model(
    graph: Graph, nodes: Sequence[NodeProto], given: onnx.ValueInfoProto, zeros: dict[str, np.ndarray]
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    tables = [tensor for name, tensor in graph.constants.items() if name in read]
    tables += [numpy_helper.from_array(array, name) for name, array in zeros.items() if name in read]
    out = helper.make_tensor_value_info(_OUT, TensorProto.FLOAT, ["batch", None])
    made = helper.make_graph(nodes, "coda_layers", [given], [out], tables)
    whole = graph.model
    return helper.make_model(
        made, opset_imports=whole.opset_import, ir_version=whole.ir_version, producer_name="coda-export"
    )
