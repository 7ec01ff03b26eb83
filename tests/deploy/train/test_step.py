"""One optimiser step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy import CodaTokenizer
from coda_deploy.data import TrainBatch
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.discriminator import Discriminator
from coda_deploy.train.objective import Critic, ImageTerms, Objective
from coda_deploy.train.schedule import Schedule
from coda_deploy.train.state import RunState
from coda_deploy.train.step import Stepper
from tests.deploy.train import runs
from tests.tiny_tokenizers import images

pytestmark = pytest.mark.numeric


class Bench:
    """A tokenizer and a stepper over it."""

    def __init__(self, workspace: runs.Workspace, config: TrainConfig, *, objective: Objective | None = None) -> None:
        self.tokenizer = build_tokenizer(config, workspace.vae).train()
        self.tokenizer.vae.to(memory_format=torch.channels_last)
        objective = objective or Objective(config.loss, None, None)
        heads = None if objective.critic is None else objective.critic.heads
        self.state = RunState(self.tokenizer, heads, config.optim)
        schedule = Schedule(config.optim.steps, config.optim, config.loss)
        self.stepper = Stepper(config, Accelerator(cpu=True), self.state, objective, schedule)

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.tokenizer.trainable()}


def batch(count: int = 4, start: int = 0) -> TrainBatch:
    names = tuple(f"{start + number}.png" for number in range(count))
    return TrainBatch(images(8, runs.SIZE)[start : start + count], names, ())


def test_the_first_step_of_adamw_by_hand(workspace: runs.Workspace) -> None:
    config = runs.config(optim={"lr": 1e-3, "lr_quantizer": 1e-2, "weight_decay": 0.1, "ema_start": 0.0})
    bench = Bench(workspace, config)
    before = bench.weights()
    expected = CodaTokenizer(bench.tokenizer.config)
    expected.load_state_dict(bench.tokenizer.state_dict())
    pixels = batch().images.permute(0, 3, 1, 2).float() / 127.5 - 1
    out = expected(pixels)
    l1, l2 = (out.reconstruction - pixels).abs().mean(), (out.reconstruction - pixels).square().mean()
    total = 0.2 * l1 + l2 + out.vq_loss + 0.05 * out.entropy_loss
    total.backward()
    gradients = {name: parameter.grad for name, parameter in expected.trainable()}
    metrics = bench.stepper.run(0, [batch()])
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {
            "l1": l1.item(),
            "l2": l2.item(),
            "vq": out.vq_loss.item(),
            "entropy": out.entropy_loss.item(),
            "total": total.item(),
            "gradient": torch.stack([g.norm() for g in gradients.values() if g is not None]).norm().item(),
        },
        rel=1e-4,
    )
    assert list(metrics)[-2:] == ["total", "gradient"]  # the term that is to blame comes before their sum
    assert not any(value.requires_grad for value in metrics.values())
    for name, parameter in bench.tokenizer.trainable():
        lr = 1e-2 if name.startswith("quantizer.") else 1e-3
        gradient = gradients[name]
        assert gradient is not None
        moved = before[name] * (1 - lr * 0.1) - lr * gradient / (gradient.abs() + 1e-8)
        sure = gradient.abs() > 1e-5
        torch.testing.assert_close(parameter.detach()[sure], moved[sure], rtol=1e-3, atol=1e-5)
        # The first average keeps a tenth.
        average = 0.1 * before[name] + 0.9 * parameter.detach()
        torch.testing.assert_close(bench.state.ema.averages[name], average)
    assert torch.equal(bench.state.seen, torch.bincount(out.ids.flatten(), minlength=32))


def test_nothing_else_moves(workspace: runs.Workspace) -> None:
    bench = Bench(workspace, runs.config())
    before = {name: tensor.clone() for name, tensor in bench.tokenizer.state_dict().items()}
    for step in range(2):
        bench.stepper.run(step, [batch()])
    moved = {name for name, tensor in bench.tokenizer.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in bench.tokenizer.trainable()}


@pytest.mark.parametrize("off", ["l1", "l2", "vq", "entropy"])
def test_a_term_that_is_switched_off(workspace: runs.Workspace, off: str) -> None:
    on = Bench(workspace, runs.config()).stepper.run(0, [batch()])
    without = Bench(workspace, runs.config(loss={off: 0.0})).stepper.run(0, [batch()])
    weight = {"l1": 0.2, "entropy": 0.05}.get(off, 1.0)
    assert without[off].item() == pytest.approx(on[off].item())
    assert without["total"].item() == pytest.approx((on["total"] - weight * on[off]).item())


def test_learning_rates_follow_the_schedule(workspace: runs.Workspace) -> None:
    config = runs.config(optim={"steps": 10, "lr": 0.2, "lr_quantizer": 0.4})
    bench = Bench(workspace, config)
    bench.stepper.run(5, [batch()])
    rates = {group["kind"]: group["lr"] for group in bench.state.optimizer.param_groups}
    assert rates == pytest.approx({"quantizer": 0.2, "other": 0.1})


def test_averages_follow_it_too(workspace: runs.Workspace) -> None:
    bench = Bench(workspace, runs.config(optim={"ema": 1.0, "ema_start": 0.5, "steps": 10}))
    for step, share in ((4, 0.0), (5, 3 / 12), (6, 4 / 13)):
        before = bench.state.ema.averages["quantizer.codebook"].clone()
        bench.stepper.run(step, [batch()])
        expected = share * before + (1 - share) * bench.tokenizer.quantizer.codebook.detach()
        torch.testing.assert_close(bench.state.ema.averages["quantizer.codebook"], expected)


def test_gradients_are_clipped(workspace: runs.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    metrics = Bench(workspace, runs.config(optim={"clip": 0.01})).stepper.run(0, [batch()])
    assert metrics["gradient"] > 0.1
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_micro_steps_are_a_batch(workspace: runs.Workspace) -> None:
    """But for what depends on all images at once: the entropy's batch mean here, the heads' batch norm elsewhere."""
    config = runs.config(loss={"entropy": 0.0}, optim={"lr": 1e-3, "lr_quantizer": 1e-3})
    whole, parts = Bench(workspace, config), Bench(workspace, config)
    for step in range(2):
        one = whole.stepper.run(step, [batch(4)])
        two = parts.stepper.run(step, [batch(2), batch(2, 2)])
        for name, value in one.items():
            if name == "entropy":
                assert two[name].item() != pytest.approx(value.item(), rel=1e-3)
            else:
                torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    other = parts.weights()
    for name, tensor in whole.weights().items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)
    assert torch.equal(whole.state.seen, parts.state.seen)


def test_the_heads_gradient_is_a_mean_too(workspace: runs.Workspace) -> None:
    """Two micro-steps of the same images, seen in the same way, give what one gives."""

    class Patches(nn.Module):
        def forward(self, pixels: Tensor, top_left: object) -> list[Tensor]:
            return [F.avg_pool2d(pixels, 4).flatten(2)]

    config = runs.config(loss={"gan": 1.0, "augment": 0.0, "blur_fade": 0.0, "gan_warmup": 0.0})
    found = []
    for micro in (1, 2):
        torch.manual_seed(0)
        critic = Critic(Patches(), Discriminator(3, 1).eval())  # no power iteration between the two
        bench = Bench(workspace, config, objective=Objective(config.loss, None, critic))
        found.append(bench.stepper.run(0, [batch()] * micro))
    assert found[0]["critic gradient"] > 0
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


def test_bf16_keeps_the_quantizer_in_float32(workspace: runs.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(workspace, runs.config(optim={"precision": "bf16"}))
    seen: dict[str, Any] = {}
    forward, quantize = CodaTokenizer.forward, bench.tokenizer.quantizer._forward

    def noted(self: CodaTokenizer, pixels: Tensor, prefix_scales: int) -> Any:
        seen["out"] = forward(self, pixels, prefix_scales)
        return seen["out"]

    def dtype(latent: Tensor, prefix_scales: int) -> Any:
        seen["dtype"], seen["autocast"] = latent.dtype, torch.is_autocast_enabled("cpu")
        return quantize(latent, prefix_scales)

    monkeypatch.setattr(CodaTokenizer, "forward", noted)
    monkeypatch.setattr(bench.tokenizer.quantizer, "_forward", dtype)
    before = {name: tensor.clone() for name, tensor in bench.tokenizer.quantizer.state_dict().items()}
    metrics = bench.stepper.run(0, [batch()])
    assert (seen["dtype"], seen["autocast"]) == (torch.float32, False)
    latent = seen["out"].latent
    assert latent.dtype == torch.bfloat16  # the VAE's convolutions were
    bench.tokenizer.quantizer.load_state_dict(before)
    assert torch.equal(bench.tokenizer.quantizer.encode(latent.float()), seen["out"].ids)
    assert {tensor.dtype for tensor in bench.weights().values()} == {torch.float32}
    assert all(torch.isfinite(value) for value in metrics.values())
    plain = Bench(workspace, runs.config()).stepper.run(0, [batch()])
    assert metrics["total"].item() == pytest.approx(plain["total"].item(), rel=0.02)
    assert metrics["total"].item() != plain["total"].item()


class Wall(Objective):
    """Finite, with a gradient that is not: the root of something that is 0."""

    def image_terms(self, images: Tensor, decoded: Tensor, *_: Any, **__: Any) -> ImageTerms:
        found = super().image_terms(images, decoded, None, 0.0, None)  # type: ignore[arg-type]
        return found._replace(total=found.total + (decoded - decoded).sum().sqrt())


def test_a_gradient_that_is_not_finite_shows(workspace: runs.Workspace) -> None:
    config = runs.config()
    metrics = Bench(workspace, config, objective=Wall(config.loss, None, None)).stepper.run(0, [batch()])
    assert [name for name, value in metrics.items() if not torch.isfinite(value)] == ["gradient"]


def test_every_step_and_micro_step_is_looked_at_in_its_own_way(workspace: runs.Workspace) -> None:
    views: list[Any] = []

    class Noted(Objective):
        def image_terms(self, images: Tensor, decoded: Tensor, last: Any, gan_weight: float, view: Any) -> ImageTerms:
            views.append((view, gan_weight))
            return super().image_terms(images, decoded, last, gan_weight, view)

    config = runs.config(optim={"steps": 10}, loss={"augment": 0.5, "blur_fade": 0.4, "gan": 3.0})
    bench = Bench(workspace, config, objective=Noted(replace(config.loss), None, None))
    for step in (0, 2, 2):
        bench.stepper.run(step, [batch(1), batch(1)])
    seeds = [view.seed for view, _ in views]
    assert len(set(seeds)) == 4
    assert seeds[2:4] == seeds[4:]
    assert [view.blur for view, _ in views[::2]] == pytest.approx([1, 0.5, 0.5])
    assert [weight for _, weight in views[::2]] == pytest.approx([0, 0.6, 0.6])
    assert {view.probability for view, _ in views} == {0.5}
