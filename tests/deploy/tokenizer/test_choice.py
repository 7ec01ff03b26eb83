"""Choosing codes a few rows at a time against the whole matrices, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from coda_deploy.tokenizer import choice
from coda_deploy.tokenizer.choice import choose

pytestmark = pytest.mark.numeric


def textbook(queries: Tensor, keys: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, ...]:
    logits = queries @ keys.T * 0.3
    probs = (logits / temperature).softmax(-1)
    entropy = -(probs * (logits / temperature).log_softmax(-1)).sum(-1).mean()
    soft = logits.softmax(-1) @ values
    return logits.argmax(-1), soft - soft.detach(), entropy, probs.mean(0)


@given(
    rows=st.integers(1, 30),
    codes=st.integers(2, 40),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    at_once=st.sampled_from([1, 50, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_the_textbook_s(
    rows: int, codes: int, temperature: float, at_once: int, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    shapes = ((rows, 8), (codes, 8), (codes, 4))
    q, k, v = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    toward = torch.randn(rows, 4, generator=g, dtype=torch.float64)
    spread = torch.randn(codes, generator=g, dtype=torch.float64)
    grads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "ELEMENTS_AT_ONCE", {"cpu": at_once})
        outs = []
        for function in (lambda a, b: choose(a, b, v, 0.3, temperature), lambda a, b: textbook(a, b, v, temperature)):
            a, b = q.clone().requires_grad_(), k.clone().requires_grad_()
            ids, nudge, entropy, mean = function(a, b)
            ((nudge * toward).sum() + 0.7 * entropy + (mean * spread).sum()).backward()
            outs.append((ids, nudge.detach(), entropy.detach(), mean.detach()))
            grads.append((a.grad, b.grad))
    for ours, theirs in zip(*outs, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_table_gets_no_gradient_from_here() -> None:
    q, k, v = (torch.randn(n, 4, requires_grad=True) for n in (3, 5, 5))
    choose(q, k, v, 1.0, 0.01).nudge.sum().backward()
    assert v.grad is None
    assert k.grad is not None


def test_no_matrix_of_positions_by_codes_is_kept() -> None:
    """What the backward pass holds on to is the inputs: queries, keys and values."""
    rows, codes = 300, 1000
    q, k = torch.randn(rows, 8, requires_grad=True), torch.randn(codes, 8, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        out = choose(q, k, torch.randn(codes, 4), 1.0, 0.01)
        F.mse_loss(out.nudge, torch.ones(rows, 4)).backward()
    assert max(kept) < rows * codes / 10
