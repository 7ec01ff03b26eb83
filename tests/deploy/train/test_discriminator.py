"""The heads, their normalisations, and the losses; narrow heads, since nothing depends on the width."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.train.discriminator import Discriminator, GlobalBatchNorm, generator_loss, hinge_loss

pytestmark = pytest.mark.numeric

CHANNELS, PATCHES = 12, 20


def features(count: int = 4, levels: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(levels, count, CHANNELS, PATCHES, generator=generator))


def small(levels: int = 5) -> Discriminator:
    return Discriminator(CHANNELS, levels)


def convolutions(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, nn.Conv1d)]


def test_one_logit_for_each_patch_of_each_level() -> None:
    found = Discriminator()([torch.randn(2, 384, 196) for _ in range(5)])
    assert found.shape == (2, 5 * 196)
    assert found.dtype == torch.float32
    with pytest.raises(ValueError, match="shorter"):
        small()(features(levels=4))


def test_heads_are_as_described() -> None:
    """The formula, from the stored tensors alone: no module of the head is called."""
    net, maps = small(levels=1), features(levels=1)
    state = {key.removeprefix("heads.0."): tensor for key, tensor in net.state_dict().items()}

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.parametrizations.weight.original"]
        weight = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
        reach = weight.shape[-1] // 2
        around = torch.cat([x[..., len(x[0, 0]) - reach :], x, x[..., :reach]], -1)
        return F.conv1d(around, weight, state[f"{name}.bias"])

    def block(x: Tensor, name: str) -> Tensor:
        x = conv(x, f"{name}.0")
        x = (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), unbiased=False, keepdim=True) + 1e-6).sqrt()
        return torch.where(x > 0, x, 0.2 * x)

    for _ in range(30):  # the power iteration settles
        net(maps)
    entered = block(maps[0], "enter")
    expected = conv((entered + block(entered, "mix")) / math.sqrt(2), "judge").squeeze(1)
    torch.testing.assert_close(net(maps), expected, rtol=1e-3, atol=1e-4)


def test_the_start() -> None:
    net = Discriminator()
    for conv in convolutions(net):
        original = conv.parametrizations.weight.original
        assert float(original.detach().std()) == pytest.approx(0.02, rel=0.15)
        assert not conv.bias.any()
    kernels = [(conv.out_channels, conv.kernel_size) for conv in convolutions(net)]
    assert kernels == [(384, (1,)), (384, (9,)), (1, (1,))] * 5
    for norm in (module for module in net.modules() if isinstance(module, GlobalBatchNorm)):
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


def test_the_largest_singular_value_is_one_and_stays_so() -> None:
    net = small()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    for step in range(20):
        optimizer.zero_grad()
        hinge_loss(net(features(seed=step)), net(features(seed=100 + step))).backward()
        optimizer.step()
    for _ in range(20):
        net(features())
    for conv in convolutions(net):
        largest = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=0.01)
        assert (
            abs(float(torch.linalg.matrix_norm(conv.parametrizations.weight.original.detach().flatten(1), 2)) - 1) > 0.1
        )


@pytest.mark.parametrize("turn", [1, 7])
def test_patches_lie_on_a_ring(turn: int) -> None:
    net, maps = small(levels=1).eval(), features(levels=1)
    torch.testing.assert_close(net([maps[0].roll(turn, 2)]), net(maps).roll(turn, 1))


@pytest.mark.parametrize("mode", [True, False])
def test_batch_norm_is_pytorchs(mode: bool) -> None:
    own, other = GlobalBatchNorm(6).train(mode), nn.BatchNorm1d(6, eps=1e-6)
    with torch.no_grad():
        for tensor in (own.weight, own.bias):
            tensor.copy_(torch.randn(6))
    other.load_state_dict(own.state_dict(), strict=False)
    x, gradient = 3 + 2 * torch.randn(5, 6, 7), torch.randn(5, 6, 7)
    results = []
    for norm in (own, other):
        inputs = x.clone().requires_grad_()
        found = norm(inputs)
        results.append((found, *torch.autograd.grad(found, (inputs, norm.weight, norm.bias), gradient)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_batch_norm_far_from_zero() -> None:
    x = torch.randn(8, 2, 50)
    # The mean is taken off before squares are formed.
    torch.testing.assert_close(GlobalBatchNorm(2)(x + 1000), GlobalBatchNorm(2)(x), atol=2e-3, rtol=0)


def test_the_state_dict_continues_a_run_bit_for_bit() -> None:
    def steps(net: Discriminator, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            net.requires_grad_(False)
            generator_loss(net(features(seed=seed)))
            net.requires_grad_(True)
            optimizer.zero_grad()
            hinge_loss(net(features(seed=seed + 50)), net(features(seed=seed))).backward()
            optimizer.step()

    net = small()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-4, betas=(0.5, 0.9), weight_decay=5e-4)
    steps(net, optimizer, range(3))
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    steps(net, optimizer, range(3, 6))

    other = small()
    other.load_state_dict(saved[0])
    again = torch.optim.AdamW(other.parameters(), lr=5e-4, betas=(0.5, 0.9), weight_decay=5e-4)
    again.load_state_dict(saved[1])
    steps(other, again, range(3, 6))
    for key, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
        # They moved since, the spectral norm's vectors too (one of a single number is 1 or -1).
        assert tensor.numel() == 1 or not torch.equal(saved[0][key], tensor), key


def test_frozen_it_still_lets_gradients_through() -> None:
    net = small().requires_grad_(False)
    maps = [x.requires_grad_() for x in features()]
    generator_loss(net(maps)).backward()
    for x in maps:
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert x.grad.any()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_bfloat16_autocast_is_near_and_keeps_the_norm_in_float32() -> None:
    net = small().eval()
    maps = features()
    expected = net(maps)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(maps)
        hinge_loss(found, -found).backward()
    assert found.dtype == torch.float32
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 0.02
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())

    lowered: list[bool] = []  # a CPU's autocast leaves matrix-vector products alone, so the values cannot tell
    for conv in convolutions(net):
        conv.parametrizations.weight[0].register_forward_pre_hook(
            lambda module, inputs: lowered.append(torch.is_autocast_enabled("cpu"))
        )
    with torch.autocast("cpu", torch.bfloat16):
        net(maps)
    assert lowered == [False] * 15


def test_losses_by_hand() -> None:
    real, fake = torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), torch.tensor([[-2.0, 0.0], [1.0, -0.5]])
    # Real: 0, 1, 2, 0. Fake: 0, 1, 2, 0.5.
    assert float(hinge_loss(real, fake)) == pytest.approx(0.5 * (3 / 4 + 3.5 / 4))
    assert float(generator_loss(fake)) == pytest.approx(1.5 / 4)


def test_it_learns_to_tell_two_distributions_apart() -> None:
    net = small()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, betas=(0.5, 0.9))
    losses = []
    for step in range(40):
        real, fake = features(8, seed=step), [x.abs() for x in features(8, seed=1000 + step)]
        optimizer.zero_grad()
        # Together, so that the batch's statistics do not hide the difference.
        logits = net([torch.cat(pair) for pair in zip(real, fake, strict=True)])
        loss = hinge_loss(logits[:8], logits[8:])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(1, abs=0.3)
    assert losses[-1] < 0.3
