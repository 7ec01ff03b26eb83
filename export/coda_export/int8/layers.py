"""Which convolutions become int8, and what a float32 graph is given before they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

CONVOLUTION, QUANTIZE, DEQUANTIZE = "Conv", "QuantizeLinear", "DequantizeLinear"
# Of a layer's largest channel: a channel that stays below is scaled as if it reached this, so that one that is always
# zero, or nearly so, is not blown up.
_SMALLEST_SHARE = 2.0**-10
_CHANNELS = "/channels"


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return all convolutions, in the order of the graph."""
    return [node for node in model.graph.node if node.op_type == CONVOLUTION]


def quantized_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions that become int8: all but the first ones and the last.

    First are those that nothing but convolutions stand before: a 1x1 convolution of the latent goes before a decoder's.
    """
    every = convolutions(model)
    first = {node.output[0] for node in every[:1]}
    for node in every[1:]:
        if node.input[0] not in first:
            break
        first.add(node.output[0])
    return [node for node in every[:-1] if node.output[0] not in first]


def layer_name(node: onnx.NodeProto) -> str:
    """Return a convolution's name in the tokenizer: that of its weights."""
    return str(node.input[1]).removesuffix(".weight")


def write_shapes(model: onnx.ModelProto) -> None:
    """Write the shapes that reshapes ask of other tensors as numbers, the batch as 0, which keeps it.

    onnxruntime makes integers only of a convolution whose output one node reads; asked for its shape, two do.
    """
    graph = model.graph
    known = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.input)
    }
    asked = {node.output[0]: known.get(node.input[0], []) for node in graph.node if node.op_type == "Shape"}
    tables: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        if node.op_type != "Reshape" or not (shape := asked.get(node.input[1])):
            continue
        # The batch comes first, of what is reshaped too, and is the only size that has a name.
        if not isinstance(shape[0], str) or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
            continue
        if known.get(node.input[0], [None])[0] != shape[0]:
            continue
        name = f"shape_{'_'.join(map(str, shape[1:]))}"
        tables[name] = numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name)
        node.input[1] = name
    graph.initializer.extend(tables.values())
    read = {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if node.op_type == "Shape" and node.output[0] not in read]:
        graph.node.remove(node)


def equalise(model: onnx.ModelProto, largest: Mapping[str, NDArray[np.float32]]) -> None:
    """Let each channel of what a convolution makes reach the same magnitude, and scale it back after the integers.

    An output has one scale for all channels, which are of very different magnitude: without this the small ones would
    be rounded to a few steps. ``largest`` has each channel's magnitude by the tensor's name, float32 [C]; weights and
    bias are divided by it, so the graph computes what it did, and its tensors keep their names.
    """
    graph = model.graph
    tables = {table.name: table for table in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        tensor = node.output[0]
        if tensor not in largest:
            continue
        scale = np.maximum(largest[tensor], _SMALLEST_SHARE * largest[tensor].max()).astype(np.float32)
        for index, name in enumerate(node.input[1:], 1):
            values = numpy_helper.to_array(tables[name])
            divided = values / scale.reshape(-1, *[1] * (values.ndim - 1))
            if readers[name] == 1:
                tables[name].CopyFrom(numpy_helper.from_array(divided, name))
            else:  # the four convolutions of a doubling share their bias
                node.input[index] = f"{name}/{node.name}"
                graph.initializer.append(numpy_helper.from_array(divided, node.input[index]))
        node.output[0] = equalised(tensor)
        by = f"{tensor}{_CHANNELS}"
        graph.initializer.append(numpy_helper.from_array(scale[:, None, None], by))
        nodes.append(helper.make_node("Mul", [node.output[0], by], [tensor], name=f"{node.name}{_CHANNELS}"))
    del graph.node[:]
    graph.node.extend(nodes)


def scales_back(node: onnx.NodeProto) -> bool:
    """Return whether a node is the one that takes `equalise` back after a convolution."""
    return node.op_type == "Mul" and str(node.name).endswith(_CHANNELS)


def equalised(tensor: str) -> str:
    """Return the name of a convolution's own output where ``tensor`` is what it was."""
    return f"{tensor}/equalised"
