"""Random searches that no fold may take lightly: biases far from zero, norm weights of both signs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.search import AttentionSearch
from coda_export.folding import SearchWeights

# What float32 cannot decide: scores of the two codes, computed in float64, differ by less, relative to their size.
TIE = 1e-5


def random_search(norm: NormType, channels: int = 4, dim: int = 8, bias: float = 3.0, seed: int = 0) -> AttentionSearch:
    generator = torch.Generator().manual_seed(seed)
    search = AttentionSearch(channels, dim, norm, 1e-5)
    with torch.no_grad():
        for name, parameter in search.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(bias * noise if name.endswith("bias") else noise)
    return search.requires_grad_(False)


def weights_of(search: AttentionSearch, codes: Tensor) -> SearchWeights:
    return SearchWeights(search.to_q, search.norm_q, search.keys(codes), search.values(codes))


def shortfall(search: AttentionSearch, codes: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """By how much each id's unfolded score falls short of the best, relative to the spread of the scores, float64."""
    double = AttentionSearch(search.to_q.in_features, search.dim, "none", 1e-5).double()
    for name in ("to_q", "to_k", "to_v", "norm_q", "norm_k"):
        source = getattr(search, name)
        target = nn.Identity() if isinstance(source, nn.Identity) else copy.deepcopy(source).double()
        setattr(double, name, target)
    with torch.no_grad():
        scores = double.logits(rows.double(), double.keys(codes.double()))
    short = scores.amax(1) - scores.gather(1, ids[:, None])[:, 0]
    return short / scores.abs().amax(1)
