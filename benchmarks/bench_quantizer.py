"""The whole quantizer at the published shapes: textbook PyTorch, folded PyTorch, one Gemm + ArgMax, and our graph.

``python -m benchmarks.bench_quantizer [--shape flux mar] [--repeats 5] [--json results.json]``. Random weights: the
time does not depend on them. The exported graph's tokens are checked by step agreement before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import in_fresh_process, interleaved, peak_memory, save, session_options, show
from coda_deploy.tokenizer.config import TokenizerConfig
from coda_deploy.tokenizer.quantizer import ResidualQuantizer, pool_rows, spread_rows
from coda_deploy.tokenizer.variants import VARIANTS
from coda_export.folding import SearchWeights, fold_search
from coda_export.folding.modules import FoldedQuantizer
from coda_export.graphs import QUANTIZER_OPSET, quantizer_graph
from coda_export.graphs.builder import GraphBuilder
from coda_export.graphs.quantizer import both_sides
from coda_runtime.format.parts import LATENT
from coda_runtime.format.sizes import count_of

SHAPES = {"flux": "flux_v65536", "mar": "mar_v16384"}


@torch.inference_mode()
def textbook(quantizer: ResidualQuantizer, latent: Tensor) -> Tensor:
    """Compute ids int32 [B, L] by the paper's formulas as written, channels first as the reference has them."""
    search, residual, out = quantizer.search, latent, []
    for shape in quantizer.shapes:
        target = F.interpolate(residual, size=shape, mode="area")
        q = search.norm_q(search.to_q(target.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        k, v = search.keys(quantizer.codebook), search.values(quantizer.codebook)
        soft = (torch.einsum("bdhw,nd->bnhw", q, k) / search.dim**0.5).softmax(1)
        ids = soft.argmax(1, keepdim=True)
        hard = torch.zeros_like(soft).scatter_(1, ids, 1.0)
        one_hot = hard + soft - soft.detach()
        value, _hard_value = torch.einsum("bnhw,nc->bchw", one_hot, v), torch.einsum("bnhw,nc->bchw", hard, v)
        residual = residual - F.interpolate(value, size=latent.shape[-2:], mode="bicubic")
        out.append(ids.flatten(1))
    return torch.cat(out, 1).int()


@torch.inference_mode()
def textbook_rows(quantizer: ResidualQuantizer, latent: Tensor) -> Tensor:
    """Compute the same with one row per position, which suits a CPU better."""
    search, residual, out = quantizer.search, latent, []
    for shape in quantizer.shapes:
        rows = pool_rows(residual, shape)
        q, k, v = search.norm_q(search.to_q(rows)), search.keys(quantizer.codebook), search.values(quantizer.codebook)
        soft = (torch.einsum("nd,vd->nv", q, k) / search.dim**0.5).softmax(-1)
        ids = soft.argmax(-1)
        hard = F.one_hot(ids, len(v)).to(soft.dtype)
        one_hot = hard + soft - soft.detach()
        value, _hard_value = torch.einsum("nv,vc->nc", one_hot, v), torch.einsum("nv,vc->nc", hard, v)
        residual = residual - spread_rows(value, shape, latent.shape[-2:])
        out.append(ids.unflatten(0, (-1, count_of(shape))))
    return torch.cat(out, 1).int()


def gemm_argmax(folded: FoldedQuantizer) -> onnx.ModelProto:
    """Build the folded quantizer with the search as one Gemm and one ArgMax per scale."""
    spec, graph = folded.spec, GraphBuilder()
    channels = spec.latent_channels
    table = graph.constant(folded.search.table.T[:channels].numpy(), "table")
    bias = graph.constant(folded.search.table[:, channels].numpy(), "bias")
    values = graph.constant(folded.search.values.numpy(), "codebook")
    residual, parts = graph.node("Transpose", "latent", perm=[0, 2, 3, 1]), []
    for shape, down, up in zip(spec.scale_shapes, folded.down, folded.up, strict=True):
        rows = graph.reshape(both_sides(graph, down, residual, channels), -1, channels)
        ids = graph.node("ArgMax", graph.node("Gemm", rows, table, bias), axis=1, keepdims=0)
        parts.append(graph.reshape(ids, -1, count_of(shape)))
        grid = graph.reshape(graph.node("Gather", values, ids, axis=0), -1, *shape, channels)
        residual = graph.node("Sub", residual, both_sides(graph, up, grid, channels))
    graph.node("Cast", graph.node("Concat", *parts, axis=1), name="ids", to=TensorProto.INT32)
    return graph.model(
        "gemm_argmax",
        [("latent", TensorProto.FLOAT, ["batch", *LATENT.row(spec)])],
        [("ids", TensorProto.INT32, ["batch", spec.num_tokens])],
        QUANTIZER_OPSET,
    )


def _session(path: Path) -> onnxruntime.InferenceSession:
    session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    session.disable_fallback()
    return session


def _peak_growth(path: Path, shape: tuple[int, ...]) -> float:
    latent = np.random.default_rng(0).standard_normal(shape, np.float32)
    before = peak_memory()
    _session(path).run(None, {"latent": latent})
    return peak_memory() - before


def added_memory(path: Path, shape: tuple[int, ...]) -> float:
    """Return the MiB by which loading and running a graph raises a fresh process's peak resident memory."""
    return in_fresh_process(_peak_growth, path, shape)


def build(config: TokenizerConfig) -> tuple[ResidualQuantizer, FoldedQuantizer]:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(
        config.vocab_size, config.latent_channels, config.scales, config.attention_dim, config.norm, config.norm_eps
    ).eval()
    search = quantizer.search
    with torch.no_grad():
        weights = SearchWeights(
            search.to_q, search.norm_q, search.keys(quantizer.codebook), search.values(quantizer.codebook)
        )
    return quantizer, FoldedQuantizer(fold_search(weights), config.spec)


def measure(shape: str, repeats: int) -> dict[str, Any]:
    """Measure times, ratios, agreement and memory at one published shape, batch 1."""
    config = VARIANTS[SHAPES[shape]]
    quantizer, folded = build(config)
    latent = 0.3 * torch.randn(LATENT.shape(config.spec, 1))
    with tempfile.TemporaryDirectory() as folder:
        ours, gemm = Path(folder, "ours.onnx"), Path(folder, "gemm.onnx")
        onnx.save(quantizer_graph(folded), ours)
        onnx.save(gemm_argmax(folded), gemm)
        ours_session, gemm_session = _session(ours), _session(gemm)
        feed = {"latent": latent.numpy()}
        ids = torch.from_numpy(np.asarray(ours_session.run(None, feed)[0]))
        agreement = float((ids == quantizer.encode_step(latent, ids)).float().mean())
        medians = interleaved(
            {
                "textbook PyTorch": lambda: textbook(quantizer, latent),
                "textbook PyTorch, rows": lambda: textbook_rows(quantizer, latent),
                "folded, chunked PyTorch": lambda: folded(latent),
                "folded, Gemm + ArgMax, onnxruntime": lambda: gemm_session.run(None, feed),
                "exported quantizer, onnxruntime": lambda: ours_session.run(None, feed),
            },
            repeats,
        )
        memory = {"exported": added_memory(ours, tuple(latent.shape)), "gemm": added_memory(gemm, tuple(latent.shape))}
    show(f"{config.variant}: V = {config.vocab_size}, {config.num_tokens} tokens, batch 1", medians, "textbook PyTorch")
    print(f"  step agreement {agreement:.4%}; memory added: {memory['exported']:.0f} MiB (Gemm {memory['gemm']:.0f})")
    return {"median_s": medians, "step_agreement": agreement, "added_memory_mib": memory}


def main() -> None:
    """Measure the shapes asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    save(args.json, {shape: measure(shape, args.repeats) for shape in args.shape})


if __name__ == "__main__":
    main()
