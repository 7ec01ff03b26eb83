"""DC-AE's linear attention in a form that an exported graph keeps.

diffusers adds 1e-15 to what it divides by. PyTorch's exporter takes that for zero and leaves it out, and where no key
agrees with a query the graph would then divide 0 by 0. Bounded from below instead, the same numbers come out.
"""

from __future__ import annotations

from diffusers.models.attention_processor import SanaMultiscaleLinearAttention
from torch import Tensor, nn


class BoundedAttention(SanaMultiscaleLinearAttention):  # type: ignore[misc]
    """The same layers; products are summed without softmax, keys and queries being none of them negative."""

    def apply_linear_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix values [B, heads, d, positions] by way of [d + 1, d] sums over all positions."""
        counted = nn.functional.pad(value, (0, 0, 0, 1), value=1.0)
        mixed = (counted @ key.transpose(-1, -2)) @ query
        return mixed[:, :, :-1] * self._inverse(mixed[:, :, -1:])

    def apply_quadratic_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix them by way of every pair of positions, which are few; in float32, as the other way is."""
        scores = key.transpose(-1, -2).float() @ query.float()
        return (value.float() @ (scores * self._inverse(scores.sum(2, keepdim=True)))).to(value.dtype)

    def _inverse(self, sums: Tensor) -> Tensor:
        return sums.clamp_min(self.eps).reciprocal()


def bound_attention(module: nn.Module) -> None:
    """Let every linear attention in ``module`` be of that form, in place."""
    for part in module.modules():
        if type(part) is SanaMultiscaleLinearAttention:
            part.__class__ = BoundedAttention
