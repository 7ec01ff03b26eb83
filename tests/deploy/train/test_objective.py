"""The picture's terms, the weight that balances them, and how the discriminator looks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy import distributed
from coda_deploy.tokenizer.lora import branch, lora_layers
from coda_deploy.train.config import LossSection
from coda_deploy.train.discriminator import Discriminator
from coda_deploy.train.objective import (
    Critic,
    Objective,
    View,
    adaptive_weight,
    frozen,
    last_lora_weight,
)
from tests.deploy.train import runs
from tests.tiny_tokenizers import make

pytestmark = pytest.mark.numeric

VIEW = View(seed=3, blur=0.0, probability=1.0)


class Means(nn.Module):
    """Two maps of four patches for a discriminator of two channels."""

    def forward(self, images: Tensor, top_left: tuple[int, int] | None = None) -> list[Tensor]:
        patches = F.adaptive_avg_pool2d(images, 2).flatten(2)
        return [patches[:, :2], patches[:, 1:]]


def critic() -> Critic:
    return Critic(Means(), Discriminator(2, 2))


def pictures(count: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 3, 8, 8) * 2 - 1, (torch.rand(count, 3, 8, 8) * 2 - 1).requires_grad_()


def test_plain_terms_by_hand() -> None:
    images, decoded = pictures()
    found = Objective(LossSection(l1=0.2, l2=3.0), None, None).image_terms(images, decoded, None, 0.0, VIEW)
    difference = (decoded - images).detach()
    assert found.terms.keys() == {"l1", "l2"}
    assert found.terms["l1"].item() == pytest.approx(difference.abs().mean().item())
    assert found.terms["l2"].item() == pytest.approx(difference.square().mean().item())
    expected = 0.2 * difference.abs().mean() + 3 * difference.square().mean()
    assert found.total.item() == pytest.approx(expected.item())
    assert found.plain is found.total


def test_the_perceptual_term() -> None:
    class Distance(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().mean((1, 2, 3)) * torch.arange(1, len(a) + 1)

    images, decoded = pictures(2)
    found = Objective(LossSection(l1=0, l2=0, lpips=0.5), Distance(), None).image_terms(images, decoded, None, 0, VIEW)
    one, two = (decoded - images).abs().mean((1, 2, 3)).tolist()
    assert found.terms["lpips"].item() == pytest.approx((one + 2 * two) / 2)
    assert found.total.item() == pytest.approx((one + 2 * two) / 4)


def test_the_discriminators_term() -> None:
    images, decoded = pictures()
    objective = Objective(LossSection(l1=0, l2=1.0, gan=7.0), None, judge := critic())
    found = objective.image_terms(images, decoded, None, 0.25, VIEW)
    gan, adaptive = found.terms["gan"], found.terms["adaptive"]
    # The weight that is given already has the configuration's in it.
    assert found.total.item() == pytest.approx((found.plain + 0.25 * adaptive * gan).item())
    (plain_gradient,) = torch.autograd.grad(found.plain, decoded, retain_graph=True)
    (gan_gradient,) = torch.autograd.grad(gan, decoded, retain_graph=True)
    assert gan_gradient.norm() > 0
    assert adaptive.item() == pytest.approx((plain_gradient.norm() / (gan_gradient.norm() + 1e-6)).item())
    # The tokenizer's part moves no head, and afterwards they can learn again.
    found.total.backward()
    assert [p for p in judge.parameters() if p.grad is not None or not p.requires_grad] == []
    judge(images, decoded.detach(), VIEW).backward()
    assert all(p.grad is not None for p in judge.parameters())


def test_the_adaptive_weight_by_hand() -> None:
    at = torch.tensor([3.0, 4.0], requires_grad=True)
    # Gradients (2 * 3, 2 * 4), of norm 10, and (0.3, 0.4), of norm 0.5.
    weight = adaptive_weight(at.square().sum(), (at * torch.tensor([0.3, 0.4])).sum(), at)
    assert weight.item() == pytest.approx(10 / (0.5 + 1e-6))
    assert not weight.requires_grad
    assert adaptive_weight(at.square().sum(), (at * 0).sum(), at) == 1e4
    assert adaptive_weight((at * 0).sum(), at.sum(), at) == 0


def toy() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both weights, at a parameter and at the picture, of a loss that is a mean over images and one of their mean."""
    torch.manual_seed(0)
    inputs, parameter = torch.randn(4, 5, dtype=torch.double), torch.randn(5, 6, dtype=torch.double)
    parameter.requires_grad_()
    share = inputs.chunk(distributed.world())[distributed.rank()]
    image_terms = (share @ parameter).tanh()
    plain = image_terms.square().mean()
    # Small, so that the constant beside its gradient counts.
    gan = 1e-4 * (image_terms * distributed.mean(image_terms.mean(0)).exp()).sum(1).mean()
    return (
        adaptive_weight(plain, gan, parameter),
        adaptive_weight(plain, gan, image_terms),
        distributed.mean_detached(plain),
        distributed.mean_detached(gan),
    )


def test_the_adaptive_weight_of_two_processes(tmp_path: Path) -> None:
    def member() -> None:
        dist.init_process_group("gloo")
        torch.save(toy(), tmp_path / f"{distributed.rank()}.pt")
        dist.destroy_process_group()

    runs.together(member, tmp_path)
    expected = toy()
    assert all(weight < 1e4 for weight in expected[:2])
    for rank in range(2):
        for found, value in zip(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected, strict=True):
            torch.testing.assert_close(found, value)


def test_where_the_gradients_are_compared() -> None:
    tokenizer = make("mar", lora=None)
    assert last_lora_weight(tokenizer) is None
    tokenizer = make("mar")
    at = last_lora_weight(tokenizer)
    layers = lora_layers(tokenizer.vae.decoder)
    assert at is branch(layers["up_blocks.2.resnets.1.conv2"])[1]
    # It is the last to be computed.
    order: list[str] = []
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: order.append(name))
    tokenizer.decode_latent(torch.zeros(1, 16, 8, 8))
    assert order[-1] == "up_blocks.2.resnets.1.conv2"


def test_frozen() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    with frozen(module):
        assert not module.weight.requires_grad
    assert module.weight.requires_grad
    assert not module.bias.requires_grad


def test_a_view_is_a_function_of_its_seed() -> None:
    torch.manual_seed(1)
    first = VIEW.draw(4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(VIEW.draw(4).numbers, first.numbers)
    assert torch.equal(torch.get_rng_state(), state)
    other = View(seed=4, blur=0.0, probability=1.0)
    assert not torch.equal(other.draw(4).numbers, first.numbers)
    assert (first.translate, first.colour, first.cutout) == (True, True, True)
    assert VIEW.corner(256, 256) == VIEW.corner(256, 256)


def test_two_processes_draw_what_one_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = VIEW.draw(6)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "world", lambda: 2)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(VIEW.draw(3).numbers)
        monkeypatch.undo()
    assert torch.equal(torch.cat(parts), whole.numbers)


def test_corners() -> None:
    views = [View(seed=seed, blur=0.0, probability=1.0) for seed in range(200)]
    assert {view.corner(size, size) for view in views for size in (32, 224)} == {None}
    corners = [view.corner(256, 256) for view in views]
    found = [corner for corner in corners if corner is not None]
    assert 60 < len(found) < 140
    assert {value for corner in found for value in corner} <= set(range(33))
    assert min(min(corner) for corner in found) <= 2
    assert max(max(corner) for corner in found) >= 30
    assert len({corner[0] - corner[1] for corner in found}) > 20


def test_corners_of_a_rectangle() -> None:
    corners = [View(seed=seed, blur=0.0, probability=1.0).corner(230, 300) for seed in range(200)]
    found = [corner for corner in corners if corner is not None]
    assert {top for top, _ in found} == set(range(7))
    assert max(left for _, left in found) > 60
    assert View(seed=1, blur=0.0, probability=1.0).corner(192, 320) is None, "too low for a window: resized"


def test_real_and_fake_are_seen_alike() -> None:
    """With the same pictures on both sides the hinge loss is that of one judgement."""
    judge, images = critic(), pictures()[0]
    judge.eval()
    logits = judge.logits(images, VIEW)
    expected = 0.5 * (F.relu(1 - logits).mean() + F.relu(1 + logits).mean())
    assert judge(images, images, VIEW).item() == pytest.approx(expected.item())
