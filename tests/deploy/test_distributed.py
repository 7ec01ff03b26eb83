"""Two real processes over gloo compute what one does with all images; the test's own process is the first of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from coda_deploy import distributed
from tests.deploy.train import peer

ROOT = Path(__file__).parents[2]
Results = dict[str, list[Any]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each of the two processes has found."""
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "tests.deploy.train.peer", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as second:
        try:
            first = peer.together(0, folder)
            _, errors = second.communicate(timeout=60)
        finally:
            second.kill()
    assert (second.returncode, errors) == (0, "")
    return [first, torch.load(folder / "second.pt", weights_only=True)]


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_function_of_a_batch_mean(pair: list[Results]) -> None:
    loss, gradient, _ = peer.entropy_like()
    for results in pair:
        close(results["entropy_like"][:2], [loss, gradient])
    # What the processes found before averaging differs, and its mean is the gradient.
    own = [results["entropy_like"][2] for results in pair]
    assert not torch.allclose(own[0], own[1])
    close([(own[0] + own[1]) / 2], [gradient])


def test_batch_norm(pair: list[Results]) -> None:
    outputs, inputs, *parameters = peer.batch_norm()
    for part, expected in ((0, outputs), (1, inputs)):
        close([torch.cat([results["batch_norm"][part] for results in pair])], [expected])
    for results in pair:
        close(results["batch_norm"][2:], parameters)


def test_the_discriminator_over_several_steps(pair: list[Results]) -> None:
    expected = peer.discriminator()
    for results in pair:
        close(results["discriminator"], expected)


def test_messages(pair: list[Results]) -> None:
    names = [*peer.NAMES[0], *peer.NAMES[1]]
    for rank, results in enumerate(pair):
        assert results["messages"] == [2, rank, False, True, names, [], [1.5, 10.0]]


def test_one_process_alone() -> None:
    x = torch.randn(3, requires_grad=True)
    assert not dist.is_initialized()
    assert (distributed.world(), distributed.rank()) == (1, 0)
    assert distributed.mean(x) is x
    assert torch.equal(distributed.mean_detached(x), x)
    assert not distributed.mean_detached(x).requires_grad
    assert distributed.gather_names(["b", "a"]) == ["b", "a"]
    assert [distributed.any_process(flag) for flag in (True, False)] == [True, False]


def test_a_group_of_one_is_one_process(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        test_values = peer.batch_norm()
        assert (distributed.world(), distributed.gather_names(["a"])) == (1, ["a"])
    finally:
        dist.destroy_process_group()
    close(test_values, peer.batch_norm())
