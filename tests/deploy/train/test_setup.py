"""Before the first step: the networks that judge, and the warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coda_deploy import CodaTokenizer, WeightsError
from coda_deploy.errors import DivergedError
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.objective import View
from coda_deploy.train.report import Report
from coda_deploy.train.setup import BASIS_IMAGES, make_objective, warm_up
from coda_runtime.errors import MissingDependencyError
from tests.deploy.perception.published import pictures, vgg_state, write_dino
from tests.deploy.train import runs
from tests.tiny_tokenizers import images

CPU = torch.device("cpu")


def batches(size: int = 4) -> Iterator[Tensor]:
    number = 0
    while True:
        yield images(size, runs.SIZE, number)
        number += 1


def warmed(workspace: runs.Workspace, config: TrainConfig, **arguments: Any) -> CodaTokenizer:
    tokenizer = build_tokenizer(config, workspace.vae)
    warm_up(config, tokenizer, batches(config.warmup.batch), Report(workspace.root, active=False), **arguments)
    return tokenizer


def test_nothing_is_loaded_for_terms_that_are_off() -> None:
    objective = make_objective(runs.config(), CPU)
    assert (objective.lpips, objective.critic) == (None, None)


def test_all_terms_with_the_published_networks(tmp_path: Path) -> None:
    """Random weights in files as the published ones: a finite step for the tokenizer and for the heads."""
    torch.save(vgg_state(), tmp_path / "vgg.pth")
    write_dino(tmp_path / "dino.pth")
    files = {"lpips_weights": str(tmp_path / "vgg.pth"), "dino_weights": str(tmp_path / "dino.pth")}
    config = runs.config(loss={"lpips": 1.0, "gan": 1.0, **files})
    state = torch.get_rng_state()
    objective = make_objective(config, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert objective.critic is not None
    # The frozen networks are neither trained nor kept.
    assert {name.split(".")[0] for name in objective.critic.state_dict()} == {"heads"}
    real, fake = pictures(2, 32, 32), pictures(2, 32, 32, seed=1).requires_grad_()
    view = View(seed=1, blur=0.5, probability=1.0)
    found = objective.image_terms(real, fake, None, 0.5, view)
    found.total.backward()
    judged = objective.critic(real, fake.detach(), view)
    judged.backward()
    assert found.terms.keys() == {"l1", "l2", "lpips", "gan", "adaptive"}
    assert all(torch.isfinite(value) for value in [*found.terms.values(), found.total, judged])
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()
    gradients = [parameter.grad for parameter in objective.critic.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    # Drawn from the seed alone.
    torch.manual_seed(99)
    again = make_objective(config, CPU).critic
    assert again is not None
    fresh = again.state_dict()
    first = make_objective(config, CPU).critic
    assert first is not None
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("term", ["lpips", "gan"])
def test_missing_weights_are_reported(tmp_path: Path, term: str) -> None:
    option = {"lpips": "lpips_weights", "gan": "dino_weights"}[term]
    config = runs.config(loss={term: 1.0, option: str(tmp_path / "none.pth")})
    with pytest.raises(WeightsError, match=rf"^loss.{option}: there is no file .*none.pth; expected the weights of "):
        make_objective(config, CPU)


@pytest.mark.parametrize(("term", "library"), [("lpips", "lpips"), ("gan", "timm")])
def test_missing_libraries_are_reported(monkeypatch: pytest.MonkeyPatch, term: str, library: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf'pip install .*"{library}>='):
        make_objective(runs.config(loss={term: 1.0}), CPU)


def test_the_warm_up_trains_the_quantizer_alone(workspace: runs.Workspace) -> None:
    config = runs.config(warmup={"images": 12, "rounds": 4, "steps": 3, "batch": 4})
    fresh = build_tokenizer(config, workspace.vae).state_dict()
    tokenizer = warmed(workspace, config)
    moved = {name for name, tensor in tokenizer.state_dict().items() if not torch.equal(tensor, fresh[name])}
    assert moved == {name for name in fresh if name.startswith("quantizer.")}
    assert tokenizer.training
    given = images(8, runs.SIZE)
    latent = tokenizer.encode_latent(given)

    def error(tokenizer: CodaTokenizer) -> float:
        return float((tokenizer.embed(tokenizer.encode(given)) - latent).detach().square().mean())

    assert error(tokenizer) < 0.5 * error(build_tokenizer(config, workspace.vae))


def test_it_is_the_same_every_time(workspace: runs.Workspace) -> None:
    config = runs.config(warmup={"images": 8, "rounds": 2, "steps": 2, "batch": 4, "equalise": True})
    torch.manual_seed(1)
    one = warmed(workspace, config).state_dict()
    torch.manual_seed(2)
    two = warmed(workspace, config).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_change_of_basis_alone(workspace: runs.Workspace) -> None:
    taken: list[int] = []

    def counted() -> Iterator[Tensor]:
        for batch in batches(8):
            taken.append(len(batch))
            yield batch

    config = runs.config(warmup={"equalise": True, "batch": 8}, tokenizer={"latent_scale": 0.5})
    tokenizer, given = build_tokenizer(config, workspace.vae), images(4, runs.SIZE)
    before = tokenizer.decode_latent(tokenizer.encode_latent(given))
    codes = tokenizer.quantizer.codebook.clone()
    warm_up(config, tokenizer, counted(), Report(workspace.root, active=False))
    assert sum(taken) == BASIS_IMAGES
    after = tokenizer.decode_latent(tokenizer.encode_latent(given))
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    assert torch.equal(tokenizer.quantizer.codebook, codes)
    # What is quantised varies by one, whatever it is scaled with.
    latent = torch.cat([tokenizer.encode_latent(batch) for batch, _ in zip(batches(8), range(8), strict=False)])
    assert latent.detach().var(dim=(0, 2, 3)).mean().item() == pytest.approx(1, rel=0.05)


def test_every_round_and_step_may_be_the_last(workspace: runs.Workspace) -> None:
    calls = [0]

    def pulse() -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise InterruptedError

    config = runs.config(warmup={"images": 4, "rounds": 4, "steps": 4, "batch": 4})
    with pytest.raises(InterruptedError):
        warmed(workspace, config, pulse=pulse)
    # One batch of latents, three rounds that show figures, and a step.
    assert calls[0] == 5


def test_a_warm_up_that_diverges(workspace: runs.Workspace) -> None:
    config = runs.config(warmup={"images": 8, "rounds": 0, "steps": 30, "batch": 4, "lr": 1e30})
    with pytest.raises(DivergedError, match=r"quantizer\..* is not finite after the warm-up: lower warmup.lr"):
        warmed(workspace, config)
