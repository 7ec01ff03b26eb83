"""How much work a graph is: floating-point operations of its convolutions and matrix products, an image."""

from __future__ import annotations

import math

import onnx

from coda_export.folding.search import FoldedSearch
from coda_runtime.format.spec import Spec


def graph_flops(model: onnx.ModelProto) -> int:
    """Count the operations for one image, two per multiply-add, of all Conv, MatMul and Gemm nodes.

    Raises ``ValueError`` where a shape that is needed cannot be inferred.
    """
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        # The batch alone has a name in place of a number: one image. 0 stands for what is not known.
        dims = info.type.tensor_type.shape.dim
        shapes[info.name] = [1 if dim.dim_param == "batch" else dim.dim_value for dim in dims]
    return sum(_node_flops(node, shapes) for node in graph.node)


def search_flops(search: FoldedSearch, spec: Spec) -> int:
    """Count the operations of the code search for one image: every token with every row of the table."""
    return 2 * spec.num_tokens * search.table.numel()


def _node_flops(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return 0
    out, second = shapes.get(node.output[0], [0]), shapes.get(node.input[1], [0])
    if 0 in out or 0 in second:
        raise ValueError(f"the shape of {node.output[0]} or {node.input[1]} is not known")
    if node.op_type == "Conv":  # weight [O, I / groups, ...]
        return 2 * math.prod(out) * math.prod(second[1:])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 2 * math.prod(out) * (second[-1] if transposed else second[-2])
