"""Two real processes over gloo train as one does at the same global batch, with every term of the objective."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coda_deploy import ConfigError
from coda_deploy.train import distributed
from coda_deploy.train.checkpoint import list_checkpoints
from coda_deploy.train.config import TrainConfig
from coda_deploy.train.launch import check_agreement, make_accelerator
from tests.deploy.perception.published import vgg_state, write_dino
from tests.deploy.train import runs

ROOT = Path(__file__).parents[3]
# Not a photograph: every process has to step over it, and the first to tell of it whoever met it.
BROKEN = "05.png"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files as those of VGG-16 and DINO, with random weights."""
    folder = tmp_path_factory.mktemp("published")
    torch.save(vgg_state(), folder / "vgg.pth")
    write_dino(folder / "dino.pth")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> runs.Place:
    place = runs.Place(tmp_path_factory.mktemp("judged"))
    (place.photos / BROKEN).write_bytes(b"no image")
    return place


def everything(published: Path, batch: int) -> TrainConfig:
    weights = {"lpips_weights": str(published / "vgg.pth"), "dino_weights": str(published / "dino.pth")}
    return runs.config(
        optim={"steps": 2, "batch": batch, "lr": 1e-3, "lr_quantizer": 1e-3, "ema_start": 0.0},
        loss={"lpips": 1.0, "gan": 1.0, "gan_warmup": 0.5, **weights},
        warmup={"images": 8, "rounds": 3, "steps": 2, "batch": 4, "equalise": True},
        save={"every": 1, "log": 1},
    )


@pytest.fixture(scope="module")
def one(judged: runs.Place, published: Path) -> Path:
    with runs.one_thread():
        judged.train(judged.root / "one", everything(published, 4))
    return judged.root / "one"


@pytest.fixture(scope="module")
def two(judged: runs.Place, published: Path) -> Path:
    out = judged.root / "two"
    runs.together(lambda: judged.train(out, everything(published, 2)), judged.root)
    return out


def close(out: Path, other: Path, step: int = 2) -> None:
    for line, expected in zip(runs.log(out), runs.log(other), strict=True):
        assert line == pytest.approx(expected, rel=1e-5, abs=1e-5)
    tensors = runs.weights(out, step), runs.weights(other, step)
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        # A bias before a batch norm gets rounding errors for a gradient, of which Adam makes whole steps.
        if not ("heads" in name and ".0.bias" in name):
            torch.testing.assert_close(tensor, tensors[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_train_as_one(one: Path, two: Path) -> None:
    lines = runs.log(one)
    terms = {"l1", "l2", "lpips", "gan", "adaptive", "vq", "entropy", "critic", "total", "gradient", "critic gradient"}
    assert lines[-1].keys() == terms | {"step", "epoch", "psnr", "utilization", "lr"}
    assert lines[-1]["adaptive"] > 0
    # The discriminator learns, and from its second step on pushes.
    assert lines[0]["critic"] != lines[1]["critic"]
    close(two, one)
    assert runs.weights(two).keys() == runs.weights(one).keys()


def test_only_the_first_process_talks(judged: runs.Place, two: Path) -> None:
    first, second = ((judged.root / f"rank-{rank}.txt").read_text() for rank in range(2))
    assert "step 2/2" in first
    assert second == ""


def test_what_any_process_skipped_is_told_and_kept(judged: runs.Place, one: Path, two: Path) -> None:
    name = str(judged.photos / BROKEN)
    for out in (one, two):
        facts = json.loads((out / "checkpoints" / "step-00000002" / "training.json").read_text())
        assert [Path(skipped).name for skipped in facts["skipped"]] == [BROKEN]
    said = (judged.root / "rank-0.txt").read_text()
    assert said.count("skipped ") == 1
    assert Path(name).name in said
    assert "1 images could not be used; the checkpoints name them" in said


@pytest.mark.parametrize("before", ["one", "two"])
def test_another_number_of_processes_goes_on(
    judged: runs.Place, published: Path, one: Path, two: Path, tmp_path: Path, before: str
) -> None:
    """Bit for bit with as many as before, nearly with twice or half as many and the same images a step."""
    out = Path(shutil.copytree({"one": one, "two": two}[before], tmp_path / "out"))
    shutil.rmtree(list_checkpoints(out)[-1])
    (out / "config.json").unlink()
    judged.train(out, everything(published, 4), resume=True)
    close(out, one)
    if before == "one":
        runs.same_run(out, one, 2)
