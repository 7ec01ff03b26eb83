"""Choosing codes with gradients, in memory that does not grow with positions x V.

The textbook keeps logits, two softmaxes, their logarithm and a one-hot matrix, each [N, V], of every scale until the
backward pass: over 10 GB for one image of 2240 tokens and 65536 codes. Here the logits are formed a few rows at a time,
in the forward pass for the ids and the entropy, and again in the backward pass for the gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Logits held at once: on a CPU about what its caches hold, on a GPU enough to fill it.
ELEMENTS_AT_ONCE = {"cpu": 1 << 21, "other": 1 << 26}


class Choice(NamedTuple):
    """``ids`` int64 [N]; ``nudge`` zeros [N, C] whose gradient is that of softmax(logits) @ values.

    Of the softmax at ``temperature``: the mean over rows of its entropy, a scalar, and its mean over rows [V].
    """

    ids: Tensor
    nudge: Tensor
    row_entropy: Tensor
    mean_probs: Tensor


def choose(queries: Tensor, keys: Tensor, values: Tensor, scale: float, temperature: float) -> Choice:
    """Search rows ``queries`` [N, d] against ``keys`` [V, d]: ``logits = queries @ keys.T * scale``.

    ``values`` [V, C] is a constant here: the gradient to the table flows through the chosen rows, not through these.
    Equal to the textbook's one-hot and softmax matrices in values and gradients.
    """
    return Choice(*_Choose.apply(queries, keys, values.detach(), scale, temperature))  # type: ignore[no-untyped-call]


def _parts(rows: int, codes: int, device: torch.device) -> Iterator[slice]:
    step = max(1, ELEMENTS_AT_ONCE["cpu" if device.type == "cpu" else "other"] // codes)
    for start in range(0, rows, step):
        yield slice(start, start + step)


class _Choose(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = len(queries)
        ids = torch.empty(count, dtype=torch.int64, device=queries.device)
        entropy = queries.new_zeros(())
        mean = queries.new_zeros(len(keys))
        for part in _parts(count, len(keys), queries.device):
            logits = (queries[part] * scale) @ keys.T
            torch.argmax(logits, -1, out=ids[part])
            log_probs = logits.div_(temperature).log_softmax(-1)
            probs = torch.exp(log_probs, out=logits)
            mean += probs.sum(0)
            entropy -= log_probs.mul_(probs).sum()
        ctx.save_for_backward(queries, keys, values)
        ctx.scale, ctx.temperature = scale, temperature
        ctx.mark_non_differentiable(ids)
        return ids, queries.new_zeros(count, values.shape[1]), entropy / count, mean / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values = ctx.saved_tensors
        _, grad_nudge, grad_entropy, grad_mean = grads
        count, temperature = len(queries), ctx.temperature
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        # Per element: with p = softmax(x / T) and H its entropy, dH/dx = -p (log p + H) / T, and for any g over the
        # codes d(p . g)/dx = p (g - p . g) / T.
        toward_mean = (grad_mean / count)[None]
        for part in _parts(count, len(keys), queries.device):
            scaled = queries[part] * ctx.scale
            logits = scaled @ keys.T
            soft = logits.softmax(-1)
            pull = grad_nudge[part] @ values.T
            pull -= torch.linalg.vecdot(soft, pull)[:, None]
            grad_logits = soft.mul_(pull)
            log_probs = logits.div_(temperature).log_softmax(-1)
            probs = torch.exp(log_probs, out=logits)
            pull = torch.addcmul(toward_mean.expand_as(log_probs), log_probs, grad_entropy / -count)
            pull -= torch.linalg.vecdot(probs, pull)[:, None]
            grad_logits.addcmul_(probs, pull, value=1 / temperature)
            grad_queries[part] = grad_logits @ keys
            grad_keys.addmm_(grad_logits.T, scaled)
        return grad_queries.mul_(ctx.scale), grad_keys, None, None, None
