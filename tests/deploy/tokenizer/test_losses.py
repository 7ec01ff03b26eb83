"""The two losses on cases that can be worked out by hand; test_quantizer.py compares whole passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from coda_deploy.tokenizer.losses import entropy_loss, vq_loss

pytestmark = pytest.mark.numeric


def test_vq_loss_by_hand() -> None:
    target, value = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    # Mean square 2.5, three times: once weighted by beta.
    assert float(vq_loss(target, value, value)) == pytest.approx(2.5 * 2.05)
    assert float(vq_loss(target, value, value, beta=1.0)) == pytest.approx(7.5)


def test_vq_loss_sends_gradients_where_it_should() -> None:
    target = torch.zeros(1, 1, requires_grad=True)
    soft, hard = torch.ones(1, 1, requires_grad=True), torch.ones(1, 1, requires_grad=True)
    vq_loss(target, soft, hard).backward()
    # d/dt of two of the terms, d/dy of the first, d/dy2 of the commitment alone.
    assert (float(target.grad), float(soft.grad), float(hard.grad)) == pytest.approx((-4.0, 2.0, 0.1))


def entropy(logits: Tensor, temperature: float = 0.01) -> float:
    probs = (logits / temperature).softmax(-1)
    rows = -(probs * (probs + 1e-30).log()).sum(-1).mean()
    return float(entropy_loss(rows, probs.mean(0)))


def test_entropy_loss_of_sure_and_even_is_minus_log_v() -> None:
    assert entropy(torch.eye(8)) == pytest.approx(-math.log(8), abs=1e-3)


def test_entropy_loss_of_sure_and_always_the_same_is_zero() -> None:
    logits = torch.zeros(5, 8)
    logits[:, 3] = 1
    assert entropy(logits) == pytest.approx(0, abs=1e-3)


def test_entropy_loss_of_unsure_is_zero() -> None:
    assert entropy(torch.zeros(5, 8)) == pytest.approx(0, abs=1e-3)
    # At a high temperature the sure ones are unsure too.
    assert entropy(torch.eye(8), temperature=1e4) == pytest.approx(0, abs=1e-3)
