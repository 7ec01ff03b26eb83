"""Whole trainings: what they leave, what stops them, and what they are given."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coda_deploy import CodaTokenizer, ConfigError, WeightsError
from coda_deploy.data import DataError
from coda_deploy.errors import DivergedError
from coda_deploy.export import export_tokenizer
from coda_deploy.tokenizer import storage
from coda_deploy.train import checkpoint, loop, trainer
from coda_deploy.train.config import read_config
from coda_deploy.train.objective import ImageTerms, Objective
from coda_deploy.train.step import Stepper
from coda_deploy.train.trainer import train
from coda_export import Threshold
from coda_runtime.errors import OutputError
from tests.deploy.train import runs
from tests.tiny_tokenizers import images

STEPS = 6


def test_what_it_leaves(workspace: runs.Workspace, whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "checkpoints",
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "provenance.json",
        "train.toml",
    ]
    # The last two, as asked for.
    assert [path.name for path in checkpoint.list_checkpoints(whole)] == ["step-00000004", "step-00000006"]
    assert read_config(whole / "train.toml") == runs.config(tokenizer={"vae": str(workspace.vae)})
    assert f'# data = "{workspace.photos}", 14 images\n' in (whole / "train.toml").read_text()
    assert [(line["step"], line["epoch"]) for line in runs.log(whole)] == [(3, 12 / 14), (6, 24 / 14)]
    assert list(runs.log(whole)[0]) == [
        *("step", "epoch", "l1", "l2", "vq", "entropy", "total", "gradient", "psnr", "utilization", "lr")
    ]
    _, facts = checkpoint.load_checkpoint(whole / "checkpoints" / "step-00000006")
    assert (facts.step, facts.images_per_step, facts.images, facts.skipped) == (6, 4, 14, {})


def test_it_learns(whole: Path, workspace: runs.Workspace, tmp_path: Path) -> None:
    metrics = workspace.train(tmp_path / "out", runs.config(optim={"steps": 30}, save={"log": 5, "every": 30}))
    first, *_, last = runs.log(tmp_path / "out")
    assert last["total"] < 0.8 * first["total"]
    assert {key: metrics[key] for key in last} == last


def test_checkpoints_hold_the_averages(whole: Path) -> None:
    final = CodaTokenizer.from_pretrained(whole)
    last = CodaTokenizer.from_pretrained(whole / "checkpoints" / "step-00000006")
    tensors, _ = checkpoint.load_checkpoint(whole / "checkpoints" / "step-00000006")
    moved = 0
    for name, parameter in last.trainable():
        assert torch.equal(parameter, tensors[f"ema.{name}"])
        moved += not torch.equal(parameter, tensors[f"raw.{name}"])
    assert moved > 10
    state = final.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in last.state_dict().items())


def test_the_tokenizer_is_exported(workspace: runs.Workspace, whole: Path, tmp_path: Path) -> None:
    import coda_runtime

    thresholds = {"fp32": Threshold(0.95, 30.0)}
    given = images(4, runs.SIZE)
    export_tokenizer(whole, tmp_path / "bundle", thresholds=thresholds, images=workspace.photos)
    with coda_runtime.load(tmp_path / "bundle") as tokenizer:
        ids = tokenizer.encode(given.numpy())
    for folder in (whole, whole / "checkpoints" / "step-00000006"):
        expected = CodaTokenizer.from_pretrained(folder).encode(given).numpy()
        assert np.array_equal(ids, expected)


def test_half_precision_for_the_deployed_weights(workspace: runs.Workspace, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    workspace.train(out, runs.config(save={"dtype": "fp16"}))
    full, half = runs.weights(whole), runs.weights(out)
    for name, tensor in half.items():
        assert tensor.dtype == (torch.float32 if name.startswith("quantizer.") else torch.float16)
        assert torch.equal(tensor, full[name].to(tensor.dtype))
    # Resuming needs all digits.
    assert runs.weights(out, STEPS)["vae.decoder.conv_in.weight"].dtype == torch.float32


def test_epochs_warm_up_images_and_metrics(workspace: runs.Workspace, tmp_path: Path) -> None:
    config = runs.config(
        optim={"steps": 0, "epochs": 1.0},
        warmup={"images": 6, "rounds": 2, "batch": 4},
        save={"pictures": 2, "log": 1, "tracking": "tensorboard", "project": "figures"},
    )
    out = tmp_path / "out"
    workspace.train(out, config)
    # 14 images are 3.5 batches.
    assert [line["step"] for line in runs.log(out)] == [1, 2, 3, 4]
    assert [path.name for path in sorted((out / "pictures").iterdir())] == ["step-00000002.png", "step-00000004.png"]
    grids = []
    for path in sorted((out / "pictures").iterdir()):
        with Image.open(path) as image:
            grids.append(np.asarray(image)[:20])
    assert np.array_equal(*grids)  # the same photographs above
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "figures"))
    events.Reload()
    assert [event.step for event in events.Scalars("l2")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("l2")] == pytest.approx([line["l2"] for line in runs.log(out)])


def test_the_warm_up_is_kept(workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.config(warmup={"images": 6, "rounds": 2, "batch": 4}, save={"every": 3})
    workspace.train(tmp_path / "whole", config)
    monkeypatch.setattr(Stepper, "run", None)
    with pytest.raises(TypeError):
        workspace.train(tmp_path / "out", config)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "out")] == ["step-00000000"]
    monkeypatch.undo()
    monkeypatch.setattr(trainer, "warm_up", None)
    workspace.train(tmp_path / "out", config, resume=True)
    runs.same_run(tmp_path / "out", tmp_path / "whole", STEPS)


def test_bf16_trains(workspace: runs.Workspace, tmp_path: Path) -> None:
    metrics = workspace.train(tmp_path / "out", runs.config(optim={"precision": "bf16", "steps": 2}))
    assert 0 < metrics["total"] < 10
    assert {tensor.dtype for tensor in runs.weights(tmp_path / "out").values()} == {torch.float32}


def test_a_loss_that_is_not_finite(workspace: runs.Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = runs.config(optim={"lr": 1e30, "lr_quantizer": 1e30}, save={"every": 1, "pictures": 0})
    with pytest.raises(DivergedError) as error:
        workspace.train(out, config)
    text = str(error.value)
    (last,) = checkpoint.list_checkpoints(out)[-1:]
    step = int(last.name[-8:])
    assert text.startswith(f"l1 is not finite at step {step + 1}, on the images {workspace.photos}")
    assert text.count(".png") == 4
    assert f"; the last checkpoint is from step {step}: start over with a lower optim.lr" in text
    CodaTokenizer.from_pretrained(last)
    assert not (out / "config.json").exists()


def test_a_gradient_that_is_not_finite(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_terms, calls = Objective.image_terms, [0]

    def wall(self: Objective, shown: Any, decoded: Any, *arguments: Any) -> ImageTerms:
        found = image_terms(self, shown, decoded, *arguments)
        calls[0] += 1
        # Finite, 0 indeed, with a derivative that is not.
        return found._replace(total=found.total + (decoded - decoded).sum().sqrt()) if calls[0] == 2 else found

    monkeypatch.setattr(Objective, "image_terms", wall)
    with pytest.raises(DivergedError, match=r"^gradient is not finite at step 2, .*last checkpoint is from step 1"):
        workspace.train(tmp_path / "out", runs.config(save={"every": 1}))
    (only,) = checkpoint.list_checkpoints(tmp_path / "out")
    assert only.name == "step-00000001"
    assert all(torch.isfinite(tensor).all() for tensor in runs.weights(tmp_path / "out", 1).values())


def test_before_the_first_checkpoint(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Stepper.run
    monkeypatch.setattr(
        Stepper, "run", lambda self, step, batches: {**run(self, step, batches), "vq": torch.tensor(float("nan"))}
    )
    with pytest.raises(DivergedError, match=r"^vq is not finite at step 1, .*; there is no checkpoint yet: start"):
        workspace.train(tmp_path / "out", runs.config())


def test_figures_that_are_read_one_step_late_tell_the_step_they_are_of(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Stepper.run, list[tuple[str, ...]]()

    def spoiled(self: Stepper, step: int, batches: list[Any]) -> dict[str, torch.Tensor]:
        seen.append(batches[0].names)
        terms = run(self, step, batches)
        return terms if step != 2 else {**terms, "vq": torch.tensor(float("nan"))}

    monkeypatch.setattr(Stepper, "run", spoiled)
    monkeypatch.setattr(loop, "Window", functools.partial(loop.Window, behind=1))  # as on a GPU
    with pytest.raises(DivergedError, match=r"^vq is not finite at step 3, ") as error:
        workspace.train(tmp_path / "out", runs.config(save={"every": 2, "log": 6}))
    assert len(seen) == 4, "the next step ran meanwhile, and was not kept"
    assert all(name in str(error.value) for name in seen[2])
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "out")] == ["step-00000002"]


def test_what_is_read_late_changes_nothing(
    workspace: runs.Workspace, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Window", functools.partial(loop.Window, behind=1))
    workspace.train(tmp_path / "out", runs.config())
    assert runs.log(tmp_path / "out") == runs.log(whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_is_float32_on_a_gpu_too(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    run, found = Stepper.run, set[tuple[bool, bool]]()
    flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)  # noqa: E731

    def watched(self: Stepper, step: int, batches: list[Any]) -> dict[str, torch.Tensor]:
        found.add(flags())
        return run(self, step, batches)

    monkeypatch.setattr(Stepper, "run", watched)
    before = flags()
    workspace.train(tmp_path / "out", runs.config(optim={"steps": 1, "precision": precision}))
    assert found == {(False, False)}
    assert flags() == before == (False, True), "cuDNN's default is TF32"


def test_many_names_are_cut() -> None:
    names = [f"{number}.png" for number in range(500)]
    text = str(DivergedError.at(3, "l1", names, None))
    assert "63.png, ...;" in text
    assert "64.png" not in text


def test_images_that_cannot_be_used(
    workspace: runs.Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = runs.write_photos(tmp_path / "photos", 8)
    (photos / "02.png").write_bytes(b"nothing")
    cut = (photos / "05.png").read_bytes()
    (photos / "05.png").write_bytes(cut[: len(cut) // 2])
    train(runs.config(), photos, tmp_path / "out", vae=workspace.vae)
    said = capsys.readouterr().err
    assert said.count("skipped ") == 2
    assert said.endswith("2 images could not be used; the checkpoints name them\n")
    _, facts = checkpoint.load_checkpoint(tmp_path / "out" / "checkpoints" / "step-00000006")
    assert {Path(name).name for name in facts.skipped} == {"02.png", "05.png"}
    # Told of in the checkpoint, and not again.
    (tmp_path / "out" / "config.json").unlink()
    shutil.rmtree(checkpoint.list_checkpoints(tmp_path / "out")[-1])
    train(runs.config(), photos, tmp_path / "out", vae=workspace.vae, resume=True)
    assert "skipped" not in capsys.readouterr().err


def test_data_that_is_none(workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "build_tokenizer", None)  # before any work
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty; expected images"):
        train(runs.config(), tmp_path / "empty", tmp_path / "out", vae=workspace.vae)
    with pytest.raises(DataError, match="there is no file or folder"):
        train(runs.config(), tmp_path / "none", tmp_path / "out", vae=workspace.vae)
    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (8, 8)).save(small / "a.png")
    with pytest.raises(DataError, match=r"none of 1 image tried, of 1, can be used; .*too few for 16 x 16 without"):
        train(runs.config(data={"upscale": False}), small, tmp_path / "out", vae=workspace.vae)
    assert not (tmp_path / "out").exists()


def test_nothing_is_begun_without_what_it_needs(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "warm_up", None)
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no VAE to adapt"):
        train(runs.config(), workspace.photos, out)
    with pytest.raises(WeightsError, match=r"loss.dino_weights: there is no file"):
        workspace.train(out, runs.config(loss={"gan": 1.0, "dino_weights": "/none"}, warmup={"images": 4}))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"has 0.0 GB free; 3 checkpoints of"):
        workspace.train(out, runs.config(warmup={"images": 4}))
    assert not out.exists()


def test_a_disk_that_fills_up(workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, write = tmp_path / "out", Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "step-00000004" in str(path) and path.name == storage.WEIGHTS_NAME:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\).*make room") as error:
        workspace.train(out, runs.config())
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002"]
    workspace.train(out, runs.config(), resume=True)
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == STEPS
