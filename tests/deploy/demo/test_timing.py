from __future__ import annotations

import pytest
import torch

from coda_deploy.demo.timing import MIN_ROUNDS, Timing, interleave
from coda_deploy.evaluate.devices import torch_threads


def test_runs_take_turns_after_one_untimed_run_each() -> None:
    calls: list[str] = []
    seconds = interleave([lambda: calls.append("a"), lambda: calls.append("b")], rounds=4, budget=60)
    assert calls == ["a", "b"] * 5
    assert [len(of) for of in seconds] == [4, 4]
    assert all(s >= 0 for of in seconds for s in of)


def test_a_spent_budget_ends_the_rounds_but_not_before_the_least() -> None:
    assert [len(of) for of in interleave([lambda: None], rounds=50, budget=0)] == [MIN_ROUNDS]


def test_pytorch_has_its_threads_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_ratio_says_how_much_faster_the_runtime_is() -> None:
    assert Timing("encoder", 1, torch_ms=30, runtime_ms=10, rounds=3, threads=1).ratio == pytest.approx(3)
