from __future__ import annotations

import pytest
import torch

from coda_deploy.demo.timing import Timing
from coda_deploy.evaluate.devices import torch_threads


def test_pytorch_has_its_threads_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_ratio_says_how_much_faster_the_runtime_is() -> None:
    assert Timing("encoder", 1, torch_ms=30, runtime_ms=10, rounds=3, threads=1).ratio == pytest.approx(3)
