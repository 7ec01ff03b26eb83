"""The quantizer's graph: its contract, its memory, and the same ids as the folded and the unfolded quantizer."""

from __future__ import annotations

import copy
import math
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.quantizer import ResidualQuantizer
from coda_export.folding import SearchWeights, fold_search
from coda_export.folding.modules import FoldedQuantizer
from coda_export.graphs import QUANTIZER_OPSET, quantizer_graph
from coda_runtime.format.spec import Spec
from tests import textbook
from tests.export import onnx_tools
from tests.tiny_tokenizers import enliven

pytestmark = pytest.mark.numeric

TIE = 1e-5


def unfolded(
    vocab_size: int, scales: tuple[int, ...] = (1, 2, 3, 5, 8), channels: int = 4, norm: NormType = "rms", dim: int = 8
) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(vocab_size, channels, scales, dim, norm, 1e-5)
    enliven(quantizer)
    return quantizer.requires_grad_(False)


def folded(quantizer: ResidualQuantizer) -> FoldedQuantizer:
    search, codes, scales = quantizer.search, quantizer.codebook, quantizer.scales
    table = fold_search(SearchWeights(search.to_q, search.norm_q, search.keys(codes), search.values(codes)))
    tokens = sum(side * side for side in scales)
    return FoldedQuantizer(table, Spec("test", 8 * scales[-1], 8, codes.shape[1], len(codes), scales, tokens))


def latents(quantizer: ResidualQuantizer, batch: int) -> Tensor:
    side, channels = quantizer.scales[-1], quantizer.codebook.shape[1]
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(batch))


def regret(quantizer: ResidualQuantizer, latent: Tensor, ids: np.ndarray) -> float:
    exact = copy.deepcopy(quantizer).double()
    return float(textbook.regret(exact, latent.double(), torch.from_numpy(ids)).max())


# Fewer codes than a block, whole blocks, one code more, and neither blocks nor chunks that come out even.
@pytest.mark.parametrize("vocab_size", [2, 5, 64, 100, 128, 129, 1000, 1024, 1025, 4097])
def test_ids_for_any_vocabulary(vocab_size: int) -> None:
    quantizer = unfolded(vocab_size)
    graph, latent = quantizer_graph(folded(quantizer)), latents(quantizer, 2)
    ids = onnx_tools.run(graph, latent.numpy())
    assert ids.dtype == np.int32
    assert ids.shape == (2, 103)
    assert 0 <= ids.min() <= ids.max() < vocab_size
    assert regret(quantizer, latent, ids) < TIE
    assert regret(quantizer, latent, (ids + 1) % vocab_size) > TIE


@pytest.mark.parametrize("norm", get_args(NormType))
def test_ids_for_every_norm(norm: NormType) -> None:
    quantizer = unfolded(300, norm=norm)
    for parameter in (p for name, p in quantizer.search.named_parameters() if "bias" in name):
        parameter.mul_(3)
    latent = latents(quantizer, 3)
    ids = onnx_tools.run(quantizer_graph(folded(quantizer)), latent.numpy())
    assert regret(quantizer, latent, ids) < TIE
    assert len(np.unique(ids)) > 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch(batch: int) -> None:
    quantizer = unfolded(200)
    latent = latents(quantizer, batch)
    ids = onnx_tools.run(quantizer_graph(folded(quantizer)), latent.numpy())
    assert ids.shape == (batch, 103)
    assert regret(quantizer, latent, ids) < TIE


@pytest.mark.parametrize("copies", [2, 50, 700])
def test_the_first_of_equal_codes_wins_as_in_argmax(copies: int) -> None:
    """Copies in the same block, in other blocks and in other chunks."""
    quantizer = unfolded(6 * copies)
    quantizer.codebook.copy_(quantizer.codebook[:6].repeat(copies, 1))
    ids = onnx_tools.run(quantizer_graph(folded(quantizer)), latents(quantizer, 2).numpy())
    assert ids.max() < 6
    assert len(np.unique(ids)) > 1


def test_contract() -> None:
    model = quantizer_graph(folded(unfolded(100)))
    assert onnx_tools.signature(model) == [
        ("latent", "FLOAT", ["batch", 4, 8, 8]),
        ("ids", "INT32", ["batch", 103]),
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", QUANTIZER_OPSET)]
    onnx.checker.check_model(model, full_check=True)


PUBLISHED = {
    "sample": (4096, (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)),
    "mar": (16384, (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)),
    "flux": (65536, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)),
}


@pytest.mark.parametrize("shape", PUBLISHED)
def test_scores_of_all_codes_are_never_held_at_once(shape: str) -> None:
    vocab_size, scales = PUBLISHED[shape]
    model = quantizer_graph(folded(unfolded(vocab_size, scales, channels=16, dim=32)))
    batch = 2
    table = max(len(content) for content in onnx_tools.tables(model).values()) // 4
    sizes = {name: math.prod(shape) for name, shape in onnx_tools.intermediate_shapes(model, batch).items()}
    assert any("step_" in name for name in sizes), "the Scan's body was looked into"
    for name, size in sizes.items():
        # Candidates of the winning block are the largest: 17 features of 128 codes a token.
        tokens = batch * scales[-1] ** 2
        assert size <= max(table, tokens * 17 * 128), f"{name} holds {size} numbers"
    assert vocab_size > 17 * 128


@pytest.mark.parametrize("shape", PUBLISHED)
def test_each_table_is_stored_once(shape: str) -> None:
    vocab_size, scales = PUBLISHED[shape]
    model = quantizer_graph(folded(unfolded(vocab_size, scales, channels=16, dim=32)))
    contents = list(onnx_tools.tables(model).values())
    assert len(contents) == len(set(contents))
    # A [V, 17] and W [V, 16], and hardly anything beside them.
    assert len(model.SerializeToString()) < vocab_size * (17 + 16) * 4 + 100_000
