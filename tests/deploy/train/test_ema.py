"""Averages of weights, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coda_deploy.train.ema import Ema

pytestmark = pytest.mark.numeric


def test_averages_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    ema = Ema([("w", weight)])
    assert torch.equal(ema.averages["w"], torch.tensor([1.0, 2.0]))
    weight.data += 2
    ema.update(0.0)
    assert torch.equal(ema.averages["w"], torch.tensor([3.0, 4.0]))
    weight.data += 10
    ema.update(0.75)
    # 0.75 * 3 + 0.25 * 13
    torch.testing.assert_close(ema.averages["w"], torch.tensor([5.5, 6.5]))
    ema.update(1.0)
    torch.testing.assert_close(ema.averages["w"], torch.tensor([5.5, 6.5]))
    assert torch.equal(weight, torch.tensor([13.0, 14.0]))


def test_they_take_the_parameters_place_and_leave_it() -> None:
    module = nn.Linear(3, 2)
    ema = Ema(list(module.named_parameters()))
    first = module.weight.detach().clone()
    module.weight.data += 1
    second = module.weight.detach().clone()
    with ema.applied():
        assert torch.equal(module.weight, first)
        assert module.weight.requires_grad
    assert torch.equal(module.weight, second)
    with pytest.raises(RuntimeError), ema.applied():
        raise RuntimeError
    assert torch.equal(module.weight, second)
    assert torch.equal(ema.averages["weight"], first)
