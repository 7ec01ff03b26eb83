"""Tokenizers' quantizers without their VAEs: the golden cases, and random ones of any size."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.search import AttentionSearch
from coda_export.folding import fold_search
from coda_export.folding.modules import FoldedQuantizer
from coda_export.kernels import DEFAULT_TARGET
from coda_export.kernels.blocks import Blocks, MergeBlock, SearchBlock, SettleBlock
from coda_export.kernels.tables import search_tables
from coda_runtime.backends.ptx import KernelSet, device_tables, make_plan
from coda_runtime.backends.ptx.screening import FROM_TOKENS
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.format.parts import LATENT
from coda_runtime.format.sizes import Scales, count_of, shapes_of, size_of
from coda_runtime.format.spec import Spec
from tests.export.searches import random_search, weights_of
from tests.golden import Golden, weight
from tests.runtime.backends.ptx.interpreter.plan import run_plan


def make_spec(vocab_size: int, scales: Scales, channels: int) -> Spec:
    shapes = shapes_of(scales)
    height, width = shapes[-1]
    return Spec("test", size_of((8 * height, 8 * width)), 8, channels, vocab_size, scales, sum(map(count_of, shapes)))


def golden_quantizer(golden: Golden, scales: int | None = None) -> FoldedQuantizer:
    """The synthetic official weights, folded; the first `scales` scales only, or all."""
    channels, dim = golden.latent.shape[1], 32
    vocab_size = {"mar_v16384": 16384, "flux_v65536": 65536}[golden.variant]
    search = AttentionSearch(channels, dim, "rms", 1e-5).requires_grad_(False)
    for name, parameter in search.named_parameters():
        parameter.copy_(torch.from_numpy(weight(f"attn.{name}", list(parameter.shape))))
    codes = torch.from_numpy(weight("codebooks.weight", [vocab_size, channels]))
    spec = make_spec(vocab_size, golden.scales, channels)
    if scales is not None:
        sides = golden.scales[:scales]
        spec = dataclasses.replace(spec, scales=sides, num_tokens=sum(side * side for side in sides))
    return FoldedQuantizer(fold_search(weights_of(search, codes)), spec)


def random_quantizer(
    vocab_size: int = 100,
    scales: Scales = (1, 3, 4),
    channels: int = 4,
    norm: NormType = "rms",
    dim: int = 8,
) -> FoldedQuantizer:
    search = random_search(norm, channels, dim, bias=0.3)
    codes = torch.randn(vocab_size, channels, generator=torch.Generator().manual_seed(1))
    # Values near the size of the residual, which then does not run away from scale to scale.
    for parameter in search.to_v.parameters():
        parameter.mul_(0.3)
    return FoldedQuantizer(fold_search(weights_of(search, codes)), make_spec(vocab_size, scales, channels))


# One search and one merge, which compile fast; several blocks, splits and chunks of the table all the same.
SMALL_BLOCKS = Blocks(
    (SearchBlock(16, 32),), (MergeBlock(4, 4),), (SearchBlock(16, 32, warps=1),), (SettleBlock(4),), 16, 16
)


def small_quantizer() -> FoldedQuantizer:
    """With all that kernels do: windows of 1, 4 and 8, a LayerNorm's deviation, and sizes that fill no block."""
    return random_quantizer(100, (1, 3, 5), norm="layer", dim=20)


def random_latent(quantizer: FoldedQuantizer, batch: int) -> np.ndarray:
    spec = quantizer.spec
    return np.random.default_rng(batch).standard_normal(LATENT.shape(spec, batch), np.float32)


def some_targets(*targets: str) -> list[Any]:
    """Targets to parametrize by. But for the one that ships, each compiles the kernels anew, which is slow."""
    return [target if target == DEFAULT_TARGET else pytest.param(target, marks=pytest.mark.slow) for target in targets]


H200 = 4 * 132
"""Blocks of the search that the backend asks for there."""


def run_kernels(
    made: tuple[bytes, KernelSet],
    quantizer: FoldedQuantizer,
    latent: np.ndarray,
    programs: int = H200,
    screen_from: int = FROM_TOKENS,
) -> np.ndarray:
    """The ids that compiled kernels find in the PTX interpreter, by their plan. Raises PtxError."""
    (ptx, kernels), spec, tables = made, quantizer.spec, search_tables(quantizer.search)
    plan = make_plan(kernels, spec, len(latent), eps=tables.eps, programs=programs, screen_from=screen_from)
    arrays = device_tables(kernels, spec, tables, quantizer.search.values.numpy())
    return run_plan(plan, kernels.modules(ptx), arrays, latent)


def reference(quantizer: FoldedQuantizer) -> NumpyQuantizer:
    return NumpyQuantizer(quantizer.spec, search_tables(quantizer.search), quantizer.search.values.numpy())
