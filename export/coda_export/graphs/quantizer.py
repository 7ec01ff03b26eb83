"""The quantizer as one ONNX graph: latent [B, C, h, w] float32 -> ids [B, L] int32. Always float32."""

from __future__ import annotations

import onnx
from onnx.helper import np_dtype_to_tensor_dtype

from coda_export.folding.modules import FoldedQuantizer
from coda_export.folding.resample import Matrices
from coda_export.graphs.builder import GraphBuilder
from coda_export.graphs.search import add_search, add_tables
from coda_runtime.format.parts import IDS, LATENT, TensorSpec
from coda_runtime.format.sizes import count_of
from coda_runtime.format.spec import Spec

# ONNX changed Pad in 19 and ReduceMax in 20, and onnxruntime-gpu has CUDA kernels for these from 1.25 and 1.27 on only:
# an earlier one would take the residual and a step's logits to the CPU in every Scan. All of them have those of 18.
QUANTIZER_OPSET = 18


def both_sides(graph: GraphBuilder, matrices: Matrices, grid: str, channels: int) -> str:
    """Add ``M g N^T`` for [B, n, m, C] -> [B, p, q, C]; nothing at all along a side that keeps its length."""
    down, across = matrices
    (height, rows), (width, columns) = down.shape, across.shape
    if height != rows:
        name = graph.constant(down.numpy(), "resample")
        grid = graph.node("MatMul", name, graph.reshape(grid, -1, rows, columns * channels))
        grid = graph.reshape(grid, -1, height, columns, channels)
    if width != columns:
        grid = graph.node("MatMul", graph.constant(across.numpy(), "resample"), grid)
    return grid


def quantizer_graph(quantizer: FoldedQuantizer) -> onnx.ModelProto:
    """Build the graph; each table is stored once, whatever the number of scales."""
    spec, graph = quantizer.spec, GraphBuilder()
    channels = spec.latent_channels
    tables = add_tables(graph, quantizer.search)
    residual, parts = graph.node("Transpose", LATENT.name, perm=[0, 2, 3, 1]), []
    for shape, down, up in zip(spec.scale_shapes, quantizer.down, quantizer.up, strict=True):
        tokens = count_of(shape)
        rows = graph.reshape(both_sides(graph, down, residual, channels), -1, channels)
        ids = add_search(graph, tables, rows, tokens)
        parts.append(graph.reshape(ids, -1, tokens))
        if shape != spec.latent_shape:
            values = graph.reshape(graph.node("Gather", tables.values, ids, axis=0), -1, *shape, channels)
            residual = graph.node("Sub", residual, both_sides(graph, up, values, channels))
    joined = graph.node("Concat", *parts, axis=1)
    graph.node("Cast", joined, name=IDS.name, to=np_dtype_to_tensor_dtype(IDS.dtype))
    return graph.model("coda_quantizer", [_described(LATENT, spec)], [_described(IDS, spec)], QUANTIZER_OPSET)


def _described(tensor: TensorSpec, spec: Spec) -> tuple[str, int, list[int | str | None]]:
    return tensor.name, int(np_dtype_to_tensor_dtype(tensor.dtype)), ["batch", *tensor.row(spec)]
