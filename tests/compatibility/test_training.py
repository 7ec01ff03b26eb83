"""Trainings that earlier versions began and this one ends: the last steps lead to the same weights.

Not to the last bit, since the checkpoint may come from another processor, or another PyTorch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from coda_deploy.tokenizer import CodaTokenizer
from tests.deploy.cli.command import coda
from tests.deploy.train import runs
from tests.deploy.train.vae import trainings

pytestmark = pytest.mark.numeric

KINDS = {"training": ("train", "model.safetensors"), "vae-training": ("train-vae", trainings.WEIGHTS)}


def joined(path: Path) -> Tensor:
    """All weights in one vector, in the order of their names."""
    tensors = load_file(path)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("name", list(KINDS))
def test_the_last_steps(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(written)  # names of images are relative, as they were
    command, weights = KINDS[name]
    out = Path(shutil.copytree(written / name, tmp_path / "out"))
    (kept,) = (out / "checkpoints").iterdir()
    steps = json.loads((kept / "training.json").read_text(encoding="utf-8"))["config"]["optim"]["steps"]
    before = runs.log(out)
    result = coda(command, "--config", out / "train.toml", "--data", "pictures", "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == f"resuming from step {int(kept.name[-8:])} of {steps}"
    assert "skipped" not in result.stderr, "the checkpoint knows of the image that cannot be read"
    log = runs.log(out)
    assert log[: len(before)] == before
    assert log[-1]["step"] == steps
    then, now = joined(written / "expected" / f"{name}.safetensors"), joined(out / weights)
    way = (then - joined(kept / weights)).norm()
    assert way > 0
    assert (now - then).norm() < 0.1 * way


def test_a_checkpoint_is_a_tokenizer(written: Path) -> None:
    (kept,) = (written / "training" / "checkpoints").iterdir()
    assert CodaTokenizer.from_pretrained(kept).spec.num_tokens == 85
