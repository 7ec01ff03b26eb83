"""The quantizer as one ONNX graph: latent [B, C, h, w] float32 -> ids [B, L] int32. Always float32."""

from __future__ import annotations

import onnx
from onnx.helper import np_dtype_to_tensor_dtype
from torch import Tensor

from coda_export.folding.modules import FoldedQuantizer
from coda_export.graphs.builder import GraphBuilder
from coda_export.graphs.search import add_search, add_tables
from coda_runtime.format.parts import IDS, LATENT, TensorSpec
from coda_runtime.format.spec import Spec

# ONNX changed Pad in 19 and ReduceMax in 20, and onnxruntime-gpu has CUDA kernels for these from 1.25 and 1.27 on only:
# an earlier one would take the residual and a step's logits to the CPU in every Scan. All of them have those of 18.
QUANTIZER_OPSET = 18


def both_sides(graph: GraphBuilder, matrix: Tensor, grid: str, channels: int) -> str:
    """Add ``M g M^T`` for [B, n, n, C] -> [B, m, m, C]; nothing at all when M is the identity."""
    out, side = matrix.shape
    if out == side:
        return grid
    name = graph.constant(matrix.numpy(), "resample")
    rows = graph.node("MatMul", name, graph.reshape(grid, -1, side, side * channels))
    return graph.node("MatMul", name, graph.reshape(rows, -1, out, side, channels))


def quantizer_graph(quantizer: FoldedQuantizer) -> onnx.ModelProto:
    """Build the graph; each table is stored once, whatever the number of scales."""
    spec, graph = quantizer.spec, GraphBuilder()
    channels, size = spec.latent_channels, spec.latent_size
    tables = add_tables(graph, quantizer.search)
    residual, parts = graph.node("Transpose", LATENT.name, perm=[0, 2, 3, 1]), []
    for side, down, up in zip(spec.scales, quantizer.down, quantizer.up, strict=True):
        rows = graph.reshape(both_sides(graph, down, residual, channels), -1, channels)
        ids = add_search(graph, tables, rows, side * side)
        parts.append(graph.reshape(ids, -1, side * side))
        if side != size:
            values = graph.reshape(graph.node("Gather", tables.values, ids, axis=0), -1, side, side, channels)
            residual = graph.node("Sub", residual, both_sides(graph, up, values, channels))
    joined = graph.node("Concat", *parts, axis=1)
    graph.node("Cast", joined, name=IDS.name, to=np_dtype_to_tensor_dtype(IDS.dtype))
    return graph.model("coda_quantizer", [_described(LATENT, spec)], [_described(IDS, spec)], QUANTIZER_OPSET)


def _described(tensor: TensorSpec, spec: Spec) -> tuple[str, int, list[int | str | None]]:
    return tensor.name, int(np_dtype_to_tensor_dtype(tensor.dtype)), ["batch", *tensor.row(spec)]
