"""Attention as the code search: a query from the latent, keys and values from the codebook."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.tokenizer.choice import choose
from coda_deploy.tokenizer.config import NormType
from coda_deploy.tokenizer.losses import ENTROPY_TEMPERATURE

# Rows of logits held at once when no gradient is needed: 512 x 65536 float32 is 128 MiB.
ROWS_AT_ONCE = 512


def make_norm(kind: NormType, dim: int, eps: float) -> nn.Module:
    """Make the norm on queries or keys: none, LayerNorm with bias, or RMSNorm with weight."""
    if kind == "layer":
        return nn.LayerNorm(dim, eps)
    return nn.RMSNorm(dim, eps) if kind == "rms" else nn.Identity()


class Found(NamedTuple):
    """One scale's search: ``ids`` int64 [N], and W[id] [N, C] twice.

    ``soft_value`` carries the straight-through gradient to the logits (softmax), ``hard_value`` only to the codebook.
    ``row_entropy`` (a scalar) and ``mean_probs`` [V] are what ``entropy_loss`` is made of.
    """

    ids: Tensor
    soft_value: Tensor
    hard_value: Tensor
    row_entropy: Tensor
    mean_probs: Tensor


class AttentionSearch(nn.Module):
    """``id = argmax norm_q(to_q(t)) . norm_k(to_k(E)) / sqrt(d)`` and ``value = to_v(E)[id]`` (arXiv 2503.17760)."""

    def __init__(self, channels: int, dim: int, norm: NormType, eps: float) -> None:
        super().__init__()
        self.dim = dim
        self.to_q = nn.Linear(channels, dim)
        self.to_k = nn.Linear(channels, dim)
        self.to_v = nn.Linear(channels, channels)
        self.norm_q = make_norm(norm, dim, eps)
        self.norm_k = make_norm(norm, dim, eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start close to a nearest-neighbour search.

        Queries and keys share one projection with orthonormal columns and one bias orthogonal to them where there is
        room: on the sphere that the norm makes, the angle between (t, b) and (e, b) then grows with the distance of t
        and e. Values start as the codebook itself.
        """
        channels = self.to_q.in_features
        nn.init.orthogonal_(self.to_q.weight)
        bias = torch.randn(self.dim)
        if self.dim > channels:
            bias -= self.to_q.weight @ (self.to_q.weight.T @ bias)
        self.to_q.bias.copy_(bias / bias.norm() * math.sqrt(channels))
        self.to_k.load_state_dict(self.to_q.state_dict())
        nn.init.eye_(self.to_v.weight)
        nn.init.zeros_(self.to_v.bias)

    def keys(self, codebook: Tensor) -> Tensor:
        """Compute the keys norm_k(to_k(E)): [V, d]."""
        return self.norm_k(self.to_k(codebook))  # type: ignore[no-any-return]

    def values(self, codebook: Tensor) -> Tensor:
        """Compute the value table W = to_v(E): [V, C]."""
        return self.to_v(codebook)  # type: ignore[no-any-return]

    def logits(self, latent: Tensor, keys: Tensor) -> Tensor:
        """Score rows [N, C] against keys [V, d]: [N, V]."""
        return self.norm_q(self.to_q(latent)) @ keys.T / math.sqrt(self.dim)  # type: ignore[no-any-return]

    def ids(self, latent: Tensor, keys: Tensor) -> Tensor:
        """Find the best code of each row of ``latent`` [N, C]: int64 [N]. Hold ROWS_AT_ONCE rows of logits at once."""
        return torch.cat([self.logits(rows, keys).argmax(-1) for rows in latent.split(ROWS_AT_ONCE)])

    def forward(self, latent: Tensor, keys: Tensor, values: Tensor) -> Found:
        """Search for training: rows ``latent`` [N, C], ``keys`` [V, d], ``values`` [V, C]."""
        queries = self.norm_q(self.to_q(latent))
        ids, nudge, entropy, mean = choose(queries, keys, values, 1 / math.sqrt(self.dim), ENTROPY_TEMPERATURE)
        hard_value = F.embedding(ids, values)
        # The reference forms one_hot + softmax - stop_grad(softmax) and multiplies by W; this has the same value and
        # the same gradients.
        return Found(ids, hard_value + nudge, hard_value, entropy, mean)
