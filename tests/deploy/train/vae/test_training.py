"""Whole trainings of a VAE: what they leave, what stops them, and that nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from coda_deploy import CodaTokenizer, ConfigError, WeightsError
from coda_deploy.data import DataError
from coda_deploy.errors import DivergedError, StoppedError
from coda_deploy.train import loop
from coda_deploy.train.checkpoint import list_checkpoints
from coda_deploy.train.objective import Objective
from coda_deploy.train.trainer import train
from coda_deploy.train.vae.config import read_config
from coda_deploy.train.vae.trainer import VaeStepper, train_vae
from coda_runtime.errors import OutputError
from tests.deploy.perception.published import vgg_state, write_dino
from tests.deploy.train import runs, test_resume
from tests.deploy.train.vae import trainings

_one_thread = runs.one_thread_each_module
STEPS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_photos(tmp_path_factory.mktemp("vae") / "photos")


@pytest.fixture(scope="module")
def whole(photos: Path) -> Path:
    """A training that nothing has interrupted; not to be changed."""
    with runs.one_thread():
        train_vae(trainings.config(), photos, photos.parent / "whole")
    return photos.parent / "whole"


def test_what_it_leaves(whole: Path) -> None:
    names = ["checkpoints", "config.json", trainings.WEIGHTS, "log.jsonl", "pictures", "train.toml"]
    assert sorted(path.name for path in whole.iterdir()) == names
    assert [path.name for path in list_checkpoints(whole)] == ["step-00000004", "step-00000006"]
    assert read_config(whole / "train.toml") == trainings.config()
    assert (whole / "train.toml").read_text().startswith(f'# data = "{whole.parent / "photos"}", 14 images\n\n[vae]\n')
    assert list(runs.log(whole)[0]) == ["step", "epoch", "l1", "l2", "kl", "total", "gradient", "psnr", "lr"]
    for folder in (whole, list_checkpoints(whole)[0]):
        assert AutoencoderKL.from_pretrained(folder).config.latent_channels == 4


def test_its_images_are_what_comes_back(whole: Path) -> None:
    assert [path.name for path in sorted((whole / "pictures").iterdir())] == ["step-00000003.png", "step-00000006.png"]
    with Image.open(whole / "pictures" / "step-00000006.png") as image:
        grid = np.asarray(image)
    assert grid.shape == (2 * 20 + 4, 4 * 20 + 4, 3)
    vae = AutoencoderKL.from_pretrained(whole)
    shown = torch.from_numpy(grid[4:20, 4:20].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        back = vae.decode(vae.encode(shown).latent_dist.mode()).sample[0].permute(1, 2, 0)
    assert np.abs(grid[24:40, 4:20] - (back * 127.5 + 127.5).clamp(0, 255).numpy()).max() <= 0.51


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    config = trainings.config(optim={"steps": 200}, save={"log": 20, "every": 200, "pictures": 0})
    train_vae(config, photos, tmp_path / "out")
    first, *_, last = runs.log(tmp_path / "out")
    assert last["psnr"] > first["psnr"] + 1


def test_it_begins_with_the_weights_of_another(photos: Path, whole: Path, tmp_path: Path) -> None:
    config = trainings.config(optim={"steps": 1, "lr": 0.0, "weight_decay": 0.0, "ema": 0.0})
    train_vae(config, photos, tmp_path / "out", vae=whole)
    assert f'# vae = "{whole}"\n' in (tmp_path / "out" / "train.toml").read_text()
    before, after = AutoencoderKL.from_pretrained(whole), AutoencoderKL.from_pretrained(tmp_path / "out")
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(tensor, after.state_dict()[name], msg=name)


def test_a_vae_of_another_network_is_named_by_the_setting_that_differs(
    photos: Path, whole: Path, tmp_path: Path
) -> None:
    config = trainings.config(vae={"block_out_channels": [4, 16]})
    expected = r"block_out_channels \[4, 8\], the configuration's vae.block_out_channels is \[4, 16\]"
    with pytest.raises(ConfigError, match=expected):
        train_vae(config, photos, tmp_path / "out", vae=whole)
    with pytest.raises(ConfigError, match="there is no VAE at nowhere"):
        train_vae(trainings.config(), photos, tmp_path / "out", vae="nowhere")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_adapted_from_it(photos: Path, whole: Path, tmp_path: Path) -> None:
    train(runs.config(optim={"steps": 1}), photos, tmp_path / "tokenizer", vae=whole)
    tokenizer = CodaTokenizer.from_pretrained(tmp_path / "tokenizer")
    own = AutoencoderKL.from_pretrained(whole)
    assert torch.equal(tokenizer.vae.decoder.conv_in.weight, own.decoder.conv_in.weight)


@pytest.mark.parametrize("limit", [3, 12, 25, 40, 55])
def test_killed_before_a_file_operation(photos: Path, whole: Path, tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"

    def killed() -> None:
        test_resume.count_events(out, limit)
        train_vae(trainings.config(), photos, out)

    assert runs.in_a_fork(killed, tmp_path / "told") == -signal.SIGKILL, (tmp_path / "told").read_text()
    train_vae(trainings.config(), photos, out, resume=True)
    trainings.same_run(out, whole, STEPS)
    assert list(tmp_path.rglob("*.part")) == []


def test_stopped_by_a_signal(photos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, run = tmp_path / "out", VaeStepper.run

    def signalled(self: VaeStepper, step: int, batches: list[Any]) -> Any:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, step, batches)

    monkeypatch.setattr(VaeStepper, "run", signalled)
    with pytest.raises(StoppedError, match=r"SIGTERM: saved at step 5 in .*; to continue, .* --resume"):
        train_vae(trainings.config(), photos, out)
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(out)] == ["step-00000004", "step-00000005"]
    assert not (out / "config.json").exists()
    train_vae(trainings.config(), photos, out, resume=True)
    trainings.same_run(out, whole, STEPS)


def test_two_processes_compute_what_one_does(photos: Path, tmp_path: Path) -> None:
    """With the noise of each image, whoever has it."""
    small = {"lr": 1e-4, "lr_warmup": 0, "clip": 1e3, "steps": 4}
    settings = {"save": {"every": 4, "log": 1, "pictures": 0}}
    train_vae(trainings.config(optim=small, **settings), photos, tmp_path / "one")
    half = trainings.config(optim={**small, "batch": 2}, **settings)
    runs.together(lambda: train_vae(half, photos, tmp_path / "two"), tmp_path)
    for line, expected in zip(runs.log(tmp_path / "two"), runs.log(tmp_path / "one"), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


# Minutes in bf16 where the processor has no instructions for it.
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_all_terms_train(photos: Path, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(vgg_state(), tmp_path / "vgg.pth")
    write_dino(tmp_path / "dino.pth")
    files = {"lpips_weights": str(tmp_path / "vgg.pth"), "dino_weights": str(tmp_path / "dino.pth")}
    run, make_objective, unaligned = VaeStepper.run, loop.make_objective, []

    def shifted(*arguments: Any) -> Objective:
        """As a loader may leave them: views that do not begin where the allocator's memory does."""
        objective = make_objective(*arguments)
        assert objective.critic is not None
        for tensor in objective.critic.features.buffers():
            tensor.data = torch.cat([torch.zeros(1), tensor.data.flatten()])[1:].view_as(tensor)
        return objective

    def seen(self: VaeStepper, step: int, batches: list[Any]) -> Any:
        assert self._objective.critic is not None
        unaligned.extend(runs.unaligned(self._objective.critic.features))
        return run(self, step, batches)

    monkeypatch.setattr(loop, "make_objective", shifted)
    monkeypatch.setattr(VaeStepper, "run", seen)
    config = trainings.config(
        loss={"lpips": 1.0, "gan": 0.5, **files},
        optim={"steps": 2, "precision": precision},
        save={"log": 1, "every": 1},
    )
    metrics = train_vae(config, photos, tmp_path / "out")
    assert {"lpips", "gan", "critic", "kl", "adaptive"} < metrics.keys()
    assert unaligned == []
    shutil.rmtree(list_checkpoints(tmp_path / "out")[-1])
    assert train_vae(config, photos, tmp_path / "out", resume=True)["critic"] == metrics["critic"]


def test_nothing_is_begun_without_what_it_needs(photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty; expected images"):
        train_vae(trainings.config(), tmp_path / "empty", out)
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds notes.txt and the like; expected images \(.*\.jpg"):
        train_vae(trainings.config(), tmp_path / "empty", out)
    with pytest.raises(WeightsError, match=r"loss.lpips_weights: there is no file"):
        train_vae(trainings.config(loss={"lpips": 1.0, "lpips_weights": "/none"}), photos, out)
    assert not out.exists()


def test_folders_that_are_taken(photos: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a training run: give --resume to continue it, or another"):
        train_vae(trainings.config(), photos, whole)
    vae = Path(shutil.copytree(whole, tmp_path / "vae", ignore=shutil.ignore_patterns("checkpoints")))
    with pytest.raises(ConfigError, match="holds a model but no checkpoints to resume from: choose another"):
        train_vae(trainings.config(), photos, vae, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is a file; expected the name of a folder to write to"):
        train_vae(trainings.config(), photos, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"was trained with loss kl = 0\.0001, now it is 1\.0: resume with the same"):
        train_vae(trainings.config(loss={"kl": 1.0}), photos, whole, resume=True)
    with pytest.raises(ConfigError, match=r"holds a training of `coda train-vae`, not of `coda train`: give another"):
        train(runs.config(), photos, whole, vae=whole, resume=True)
    train(runs.config(optim={"steps": 1}), photos, tmp_path / "tokenizer", vae=whole)
    with pytest.raises(ConfigError, match=r"holds a training of `coda train`, not of `coda train-vae`: give another"):
        train_vae(trainings.config(), photos, tmp_path / "tokenizer", resume=True)


def test_a_loss_that_is_not_finite(photos: Path, tmp_path: Path) -> None:
    config = trainings.config(optim={"lr": 1e30, "lr_warmup": 0}, save={"every": 1, "pictures": 0})
    with pytest.raises(DivergedError, match=r"is not finite at step \d, on the images .*start over with a lower"):
        train_vae(config, photos, tmp_path / "out")
    AutoencoderKL.from_pretrained(list_checkpoints(tmp_path / "out")[-1])
