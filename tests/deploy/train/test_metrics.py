"""Means between log lines, and what processes agree on."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from coda_deploy import distributed
from coda_deploy.train.metrics import Window
from tests.deploy.train import runs


def terms(l2: float, gan: float = 0.0) -> dict[str, Tensor]:
    return {"l2": torch.tensor(l2), "gan": torch.tensor(gan, dtype=torch.bfloat16)}


def test_means_by_hand() -> None:
    seen = torch.tensor([0, 3, 0, 1])
    window = Window(seen, 10)
    for l2, gan in ((0.1, -1.0), (0.3, 2.0)):
        window.add(terms(l2, gan), 0)
    metrics = window.read()
    assert metrics["l2"] == pytest.approx(0.2)
    assert metrics["gan"] == 0.5
    assert metrics["psnr"] == pytest.approx(10 * math.log10(4 / 0.2))
    assert metrics["utilization"] == 0.5
    assert metrics["images_per_second"] > 0
    assert seen.tolist() == [0, 0, 0, 0]
    window.add(terms(0.5), 0)
    assert window.read()["l2"] == 0.5


def test_identical_images_have_a_finite_psnr() -> None:
    window = Window(torch.zeros(1), 1)
    window.add(terms(0.0), 0)
    assert window.read()["psnr"] == pytest.approx(10 * math.log10(4e12))


def test_it_goes_on_from_what_a_checkpoint_kept() -> None:
    values = [0.1, 0.7, 1 / 3]
    whole = Window(torch.zeros(1), 1)
    for value in values:
        whole.add(terms(value), 0)
    first = Window(torch.zeros(1), 1)
    for value in values[:2]:
        first.add(terms(value), 0)
    kept = json.loads(json.dumps(first.state()))
    second = Window(torch.zeros(1), 1, kept)
    second.add(terms(values[2]), 0)
    assert second.read()["l2"] == whole.read()["l2"]
    assert Window(torch.zeros(1), 1, {}).state() == {"steps": 0, "sums": {}}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_term_that_is_not_finite(value: float) -> None:
    window = Window(torch.zeros(1), 1)
    window.add(terms(0.1), 0)
    assert window.diverged == ""
    window.add({"l1": torch.tensor(0.1), "vq": torch.tensor(value), "total": torch.tensor(value)}, 0)
    assert window.diverged == "vq"


def test_a_step_is_read_while_the_next_one_runs() -> None:
    window = Window(torch.zeros(1), 1, behind=1)
    window.add(terms(0.1), signal.SIGINT)
    assert window.stop == 0
    window.add(terms(float("nan")), 0)
    assert (window.stop, window.diverged) == (signal.SIGINT, "")
    window.add(terms(0.2), 0)
    assert (window.diverged, window.late) == ("l2", 1)
    other = Window(torch.zeros(1), 1, behind=1)
    other.add(terms(0.1), 0)
    other.add(terms(0.3, float("inf")), 0)
    other.settle()
    assert (other.diverged, other.late) == ("gan", 0)


@pytest.mark.parametrize("told", ["read", "state"])
def test_what_is_told_has_every_step(told: str) -> None:
    window = Window(torch.zeros(1), 1, behind=1)
    for value in (0.1, 0.3):
        window.add(terms(value), 0)
    found = window.read()["l2"] if told == "read" else window.state()["sums"]["l2"] / 2
    assert found == pytest.approx(0.2)


def test_two_processes_agree(tmp_path: Path) -> None:
    def member() -> None:
        dist.init_process_group("gloo")
        rank = distributed.rank()
        seen = torch.tensor([[1, 0, 0, 0], [1, 2, 0, 0]][rank])
        window = Window(seen, 1)
        window.add(terms([0.1, 0.3][rank]), [0, signal.SIGINT][rank])
        stops = window.stop
        state = window.state()
        gathered = seen.tolist()
        metrics = window.read()
        window.add(terms([0.1, float("nan")][rank]), 0)
        metrics.pop("images_per_second")
        found = {"stop": stops, "sums": state["sums"], "seen": gathered, "diverged": window.diverged, **metrics}
        (tmp_path / f"{rank}.json").write_text(json.dumps(found))
        dist.destroy_process_group()

    runs.together(member, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    # A signal that only one process got stops both; the other cannot know which it was.
    assert (first.pop("stop"), second.pop("stop")) == (signal.SIGTERM, signal.SIGINT)
    assert (first.pop("seen"), second.pop("seen")) == ([2, 2, 0, 0], [0, 0, 0, 0])
    assert first == second
    assert (first["l2"], first["utilization"], first["diverged"]) == (pytest.approx(0.2), 0.5, "l2")
