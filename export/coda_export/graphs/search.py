"""The exact two-stage code search as ONNX nodes.

A plain Gemm + ArgMax writes [tokens, V] logits to memory and scans them with an operator that CPUs do not vectorise.
Here a Scan walks the table in chunks that stay in the cache and keeps only each block's maximum (ReduceMax is
vectorised); the winning block alone is then searched for its code. [tokens, V] never exists whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from coda_export.folding.search import FoldedSearch
from coda_export.graphs.builder import GraphBuilder

# Codes a block, and blocks a Scan step for scales of many and of few tokens. Measured with benchmarks/bench_search.py:
# a step's logits should stay in the cache, and with few tokens a step's own cost counts for more.
BLOCK = 128
BLOCKS_PER_STEP = 16
BLOCKS_PER_SHORT_STEP = 64
FEW_TOKENS = 64
# Padding codes score this; finite, so that no NaN can come of it.
_NEVER = np.float32(-3e38)


@dataclass(frozen=True)
class SearchTables:
    """Names of the initializers, shared by all scales. ``values`` is W [V, C].

    ``blocks`` is A as [blocks, K, block]; ``steps`` and ``short_steps`` are the same cut into Scan steps, each with its
    number of blocks a step.
    """

    blocks: str
    steps: tuple[str, int]
    short_steps: tuple[str, int]
    values: str
    block: int
    features: int
    spread: str | None
    eps: float


def add_tables(graph: GraphBuilder, search: FoldedSearch) -> SearchTables:
    """Store A once, as [blocks, K, block], and W."""
    table = search.table.numpy()
    vocab, features = table.shape
    block = min(BLOCK, 1 << (vocab - 1).bit_length())
    per_step = min(BLOCKS_PER_STEP, -(-vocab // block))
    padded: NDArray[np.float32] = np.zeros((-(-vocab // (block * per_step)) * block * per_step, features), np.float32)
    padded[:vocab] = table
    padded[vocab:, search.values.shape[1]] = _NEVER  # the feature that is always 1
    blocks = graph.constant(padded.reshape(-1, block, features).transpose(0, 2, 1), "search_table")
    steps = graph.reshape(blocks, -1, per_step, features, block), per_step
    per_short = math.gcd(len(padded) // block, BLOCKS_PER_SHORT_STEP)
    short_steps = steps
    if per_short > per_step:
        short_steps = graph.reshape(blocks, -1, per_short, features, block), per_short
    return SearchTables(
        blocks=blocks,
        steps=steps,
        short_steps=short_steps,
        values=graph.constant(search.values.numpy(), "codebook"),
        block=block,
        features=features,
        spread=None if search.spread is None else graph.constant(search.spread.numpy(), "spread"),
        eps=search.eps,
    )


def _features(graph: GraphBuilder, tables: SearchTables, rows: str) -> str:
    """Turn rows [N, C] into [N, K]: append 1, and the query's standard deviation where a LayerNorm asks for it."""
    one = graph.constant(np.array(1, np.float32), "one")
    rows = graph.node("Pad", rows, graph.constant([0, 0, 0, 1], "pads"), one)
    if tables.spread is None:
        return rows
    centred = graph.node("MatMul", rows, tables.spread)
    squared = graph.node("Mul", centred, centred)
    variance = graph.node("ReduceMean", squared, graph.constant([1], "axis"), keepdims=1)
    std = graph.node("Sqrt", graph.node("Add", variance, graph.constant(np.array(tables.eps, np.float32), "eps")))
    return graph.node("Concat", rows, std, axis=1)


def add_search(graph: GraphBuilder, tables: SearchTables, rows: str, tokens: int) -> str:
    """Add the search from rows float32 [N, C] to ids int64 [N]; ``tokens`` is how many rows one image has."""
    chunks, per_step = tables.short_steps if tokens <= FEW_TOKENS else tables.steps
    features = _features(graph, tables, rows)
    body = GraphBuilder(f"{features}/")
    logits = body.node("MatMul", features, "chunk")
    body.node("ReduceMax", logits, body.constant([-1], "last"), name="best", keepdims=0)
    # TensorRT's parser refuses a Scan that carries no state from step to step.
    body.node("Identity", "state", name="kept")
    shape = [per_step, tables.features, tables.block]
    step = body.graph(
        f"step_{features}",
        [("state", TensorProto.FLOAT, [1]), ("chunk", TensorProto.FLOAT, shape)],
        [("kept", TensorProto.FLOAT, [1]), ("best", TensorProto.FLOAT, [per_step, None])],
    )
    state = graph.constant(np.zeros(1, np.float32), "state")
    maxima = graph.nodes_of("Scan", 2, state, chunks, body=step, num_scan_inputs=1)[1]  # [steps, per_step, N]
    # A row count of 0 cannot be told from "keep" in a Reshape, so the token axis moves first and blocks are inferred.
    by_token = graph.node("Transpose", maxima, perm=[2, 0, 1])
    block = graph.node("ArgMax", graph.node("Flatten", by_token, axis=1), axis=1, keepdims=0)
    candidates = graph.node("Gather", tables.blocks, block, axis=0)  # [N, K, block]
    scores = graph.node("MatMul", graph.node("Unsqueeze", features, graph.constant([1], "axis")), candidates)
    inside = graph.node("ArgMax", graph.node("Flatten", scores, axis=1), axis=1, keepdims=0)
    return graph.node("Add", graph.node("Mul", block, graph.constant(tables.block, "block")), inside)
