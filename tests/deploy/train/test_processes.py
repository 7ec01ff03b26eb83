"""Two real processes over gloo train as one does at the same global batch, with every term of the objective."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy import perception
from coda_deploy.perception.dino import CHANNELS, LEVELS
from coda_deploy.train.checkpoint import list_checkpoints
from coda_deploy.train.config import TrainConfig
from tests.deploy.perception.published import vgg_state
from tests.deploy.train import runs

ROOT = Path(__file__).parents[3]
# Not a photograph: every process has to step over it, and the first to tell of it whoever met it.
BROKEN = "05.png"


class Patches(nn.Module):
    """In DINO's place, whose random weights blow rounding errors up to 1 %: five maps of 16 patches, smooth."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.projections = [torch.randn(CHANNELS, 48, generator=generator) / 7 for _ in range(LEVELS)]

    def forward(self, images: Tensor, top_left: tuple[int, int] | None = None) -> list[Tensor]:
        patches = F.unfold(images, 4, stride=4)
        return [(projection @ patches).tanh() for projection in self.projections]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file as that of VGG-16, with random weights, and Patches for DINO."""
    folder = tmp_path_factory.mktemp("published")
    torch.save(vgg_state(), folder / "vgg.pth")
    patch = pytest.MonkeyPatch()
    patch.setattr(perception, "DinoFeatures", Patches)
    yield folder
    patch.undo()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> runs.Workspace:
    workspace = runs.Workspace(tmp_path_factory.mktemp("judged"))
    (workspace.photos / BROKEN).write_bytes(b"no image")
    return workspace


def everything(published: Path, batch: int) -> TrainConfig:
    return runs.config(
        optim={"steps": 2, "batch": batch, "accumulate": 2, "lr": 1e-3, "lr_quantizer": 1e-3, "ema_start": 0.0},
        loss={"lpips": 1.0, "gan": 1.0, "gan_warmup": 0.5, "lpips_weights": str(published / "vgg.pth")},
        warmup={"images": 8, "rounds": 3, "steps": 2, "batch": 4, "equalise": True},
        save={"every": 1, "log": 1},
    )


@pytest.fixture(scope="module")
def one(judged: runs.Workspace, published: Path) -> Path:
    judged.train(judged.root / "one", everything(published, 2))
    return judged.root / "one"


@pytest.fixture(scope="module")
def two(judged: runs.Workspace, published: Path) -> Path:
    out = judged.root / "two"
    runs.together(lambda: judged.train(out, everything(published, 1)), judged.root)
    return out


def close(out: Path, other: Path, step: int = 2) -> None:
    for line, expected in zip(runs.log(out), runs.log(other), strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)
    tensors = runs.weights(out, step), runs.weights(other, step)
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        other_tensor = tensors[1][name]
        if not name.startswith("heads"):
            torch.testing.assert_close(tensor, other_tensor, rtol=1e-4, atol=1e-5, msg=name)
        elif not name.removesuffix(".exp_avg").removesuffix(".exp_avg_sq").endswith(".0.bias"):
            # Adam makes whole steps of rounding errors: of a few weights', and of all that a bias before a batch norm
            # receives.
            assert (tensor - other_tensor).norm() <= 2e-3 * other_tensor.norm(), name


def test_two_processes_train_as_one(one: Path, two: Path) -> None:
    lines = runs.log(one)
    terms = {"l1", "l2", "lpips", "gan", "adaptive", "vq", "entropy", "critic", "total", "gradient", "critic gradient"}
    assert lines[-1].keys() == terms | {"step", "epoch", "psnr", "utilization", "lr"}
    assert lines[-1]["adaptive"] > 0
    # The discriminator learns, and from its second step on pushes.
    assert lines[0]["critic"] != lines[1]["critic"]
    close(two, one)
    assert runs.weights(two).keys() == runs.weights(one).keys()


def test_only_the_first_process_talks(judged: runs.Workspace, two: Path) -> None:
    first, second = ((judged.root / f"rank-{rank}.txt").read_text() for rank in range(2))
    assert "step 2/2" in first
    assert second == ""


def test_what_any_process_skipped_is_reported_and_kept(judged: runs.Workspace, one: Path, two: Path) -> None:
    name = str(judged.photos / BROKEN)
    for out in (one, two):
        facts = json.loads((out / "checkpoints" / "step-00000002" / "training.json").read_text())
        assert [Path(skipped).name for skipped in facts["skipped"]] == [BROKEN]
    said = (judged.root / "rank-0.txt").read_text()
    assert said.count("skipped ") == 1
    assert Path(name).name in said
    assert "1 image could not be used; the checkpoints name them" in said


@pytest.mark.parametrize("before", ["one", "two"])
def test_another_number_of_processes_goes_on(
    judged: runs.Workspace, published: Path, one: Path, two: Path, tmp_path: Path, before: str
) -> None:
    """Bit for bit with as many as before, nearly with twice or half as many and the same images a step."""
    out = Path(shutil.copytree({"one": one, "two": two}[before], tmp_path / "out"))
    shutil.rmtree(list_checkpoints(out)[-1])
    (out / "config.json").unlink()
    judged.train(out, everything(published, 2), resume=True)
    close(out, one)
    if before == "one":
        runs.same_run(out, one, 2)
