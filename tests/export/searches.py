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
    """By how much each id's unfolded score falls short of the best, [N] float64, in units that float32 can resolve.

    The unit is the largest score, times how much the norm amplifies rounding: a query that cancels to almost nothing
    is known to few digits, folded or not, and is blown up to the size of all others.
    """
    exact = copy.deepcopy(search).double()
    rows, to_q = rows.double(), exact.to_q
    with torch.no_grad():
        scores = exact.logits(rows, exact.keys(codes.double()))
        query, terms = to_q(rows), rows.abs() @ to_q.weight.abs().T + to_q.bias.abs()
    centred = query - query.mean(1, keepdim=True) if isinstance(exact.norm_q, nn.LayerNorm) else query
    amplified = terms.amax(1) / centred.square().mean(1).sqrt()
    short = scores.amax(1) - scores.gather(1, ids[:, None])[:, 0]
    return short / (scores.abs().amax(1) * amplified.clamp_min(1))
