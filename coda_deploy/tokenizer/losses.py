"""The quantizer's two losses (arXiv 2503.17760), each per scale; their means over the scales enter the objective."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

COMMITMENT_BETA = 0.05
ENTROPY_TEMPERATURE = 0.01
_EPS = 1e-5


def vq_loss(target: Tensor, soft_value: Tensor, hard_value: Tensor, beta: float = COMMITMENT_BETA) -> Tensor:
    """Compute ``mean((y - t)^2) + mean((sg(y2) - t)^2) + beta * mean((y2 - sg(t))^2)``, a scalar.

    ``target`` t [N, C] is the pooled residual, ``soft_value`` y carries the straight-through gradient, ``hard_value``
    y2 only the codebook's.
    """
    return (
        F.mse_loss(soft_value, target)
        + F.mse_loss(hard_value.detach(), target)
        + beta * F.mse_loss(hard_value, target.detach())
    )


def entropy_loss(row_entropy: Tensor, mean_probs: Tensor) -> Tensor:
    """Compute the mean entropy of each position's softmax minus the entropy of their mean: a scalar, at least -log V.

    Low means that each position is sure and the codebook is used evenly. ``row_entropy`` is the first term, a scalar;
    ``mean_probs`` [V] the mean softmax, both at ENTROPY_TEMPERATURE and over all positions of the batch.
    """
    # The reference adds 1e-5 inside the first term's logarithm too, to the logits, which changes nothing there.
    return row_entropy + (mean_probs * (mean_probs + _EPS).log()).sum()
