"""The attention search folded into one table: ``argmax_n norm_q(W_q t + b_q) . K_n  ==  argmax_n features(t) . A_n``.

A row's logits may be multiplied by any positive number without changing their argmax. So 1/sqrt(d) drops out, and so
does the division inside a norm: RMSNorm divides by the row's root mean square, LayerNorm by its standard deviation.

- no norm:   q = W_q t + b_q                 features (t, 1)
- RMSNorm:   q * w, w into K                 features (t, 1)
- LayerNorm: (q - mean q) * w + std(q) * b   features (t, 1, std(q)): its bias is not scaled with the row, so the
             standard deviation, which is computed from t, becomes one more feature
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SearchWeights:
    """The unfolded search. ``to_q`` maps C to d; ``keys`` [V, d] are normed already; ``values`` [V, C]."""

    to_q: nn.Linear
    norm_q: nn.Module
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class FoldedSearch:
    """The folded search.

    ``table`` A float32 [V, K] with K = C + 1, or C + 2 with ``spread``; ``values`` W float32 [V, C];
    ``spread`` float32 [C + 1, d]: the centred query of (t, 1), whose standard deviation is the last feature, and
    ``eps`` its variance's summand. None when there is no LayerNorm.
    """

    table: Tensor
    values: Tensor
    spread: Tensor | None = None
    eps: float = 0.0

    def features(self, rows: Tensor) -> Tensor:
        """Turn rows t [N, C] into features [N, K]."""
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        if self.spread is None:
            return rows
        std = ((rows @ self.spread).square().mean(1, keepdim=True) + self.eps).sqrt()
        return torch.cat([rows, std], 1)

    def ids(self, rows: Tensor, chunk: int = 8192) -> Tensor:
        """Find the best code of each row [N, C]: int64 [N]; at most ``chunk`` columns of logits exist at a time."""
        features = self.features(rows)
        best = torch.full((rows.shape[0],), -torch.inf)
        ids = torch.zeros(rows.shape[0], dtype=torch.int64)
        for start in range(0, len(self.table), chunk):
            value, index = (features @ self.table[start : start + chunk].T).max(1)
            # Strictly greater: of equal logits the first code wins, as in argmax.
            ids = torch.where(value > best, index + start, ids)
            best = torch.maximum(best, value)
        return ids


@torch.no_grad()
def fold_search(weights: SearchWeights) -> FoldedSearch:
    """Fold projection, norm and keys into one table, computed in float64 and rounded once.

    Raises ``TypeError`` for a norm other than none (Identity), LayerNorm or RMSNorm.
    """
    norm = weights.norm_q
    keys, projection = weights.keys.double(), weights.to_q.weight.double()
    bias = weights.to_q.bias.double() if weights.to_q.bias is not None else projection.new_zeros(len(projection))
    query = torch.cat([projection, bias[:, None]], 1)  # [d, C + 1], acting on (t, 1)
    spread, extra, eps = None, None, 0.0
    if isinstance(norm, nn.LayerNorm):
        query = query - query.mean(0)
        if norm.bias is not None:
            spread, extra, eps = query.T.float().contiguous(), (keys @ norm.bias.double())[:, None], norm.eps
    elif not isinstance(norm, (nn.RMSNorm, nn.Identity)):
        raise TypeError(f"cannot fold a {type(norm).__name__} on the queries: expected Identity, LayerNorm or RMSNorm")
    scale = getattr(norm, "weight", None)
    if scale is not None:
        keys = keys * scale.double()
    table = keys @ query
    if extra is not None:
        table = torch.cat([table, extra], 1)
    return FoldedSearch(table.float().contiguous(), weights.values.float().contiguous(), spread, eps)
