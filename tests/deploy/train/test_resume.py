"""Nothing is lost: whatever ends a training, going on gives what an uninterrupted one does, to the last bit."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from coda_deploy import CodaTokenizer, ConfigError, WeightsError
from coda_deploy.errors import StoppedError
from coda_deploy.train import latent_basis, trainer
from coda_deploy.train.checkpoint import list_checkpoints
from coda_deploy.train.step import Stepper
from coda_runtime.errors import OutputError
from tests.deploy.train import runs

pytestmark = pytest.mark.numeric

STEPS = 6
# Of the changes and openings of files that a run makes.
EVERY = 8


def count_events(out: Path, limit: int | None = None) -> list[int]:
    """Count what is opened, made, moved and removed in ``out`` from now on; be killed before number ``limit``."""
    count = [0]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and str(args[0]).startswith(str(out)):
            if count[0] == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1

    sys.addaudithook(hook)
    return count


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """The uninterrupted run, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def undo(out: Path, step: int) -> None:
    """As a run left it that was killed soon after it wrote the checkpoint of ``step``."""
    for path in list_checkpoints(out):
        if path.name > f"step-{step:08}":
            shutil.rmtree(path)
    for name in ("config.json", "model.safetensors"):
        (out / name).unlink()


def test_killed_before_a_file_operation(workspace: runs.Workspace, whole: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", tmp_path / "told"
    found: list[int] = []

    def counted() -> None:
        count = count_events(out)
        workspace.train(out, runs.config())
        (tmp_path / "count").write_text(str(count[0]))

    assert runs.in_a_fork(counted, told) == 0, told.read_text()
    runs.same_run(out, whole, STEPS)
    total = int((tmp_path / "count").read_text())
    assert total > 40
    for limit in range(1, total, EVERY):
        shutil.rmtree(out)

        def killed(limit: int = limit) -> None:
            count_events(out, limit)
            workspace.train(out, runs.config())

        assert runs.in_a_fork(killed, told) == -signal.SIGKILL, told.read_text()
        found.append(len(list(tmp_path.rglob("*.part"))))
        workspace.train(out, runs.config(), resume=True)
        runs.same_run(out, whole, STEPS)
        assert list(tmp_path.rglob("*.part")) == []
    assert max(found) == 2  # half-written files were there to be removed


def test_stopped_by_a_signal(
    workspace: runs.Workspace, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "out", Stepper.run

    def signalled(self: Stepper, step: int, batches: list[Any]) -> Any:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, step, batches)

    monkeypatch.setattr(Stepper, "run", signalled)
    with pytest.raises(StoppedError, match=r"SIGTERM: saved at step 5 in .*; to continue, .* --resume") as stopped:
        workspace.train(out, runs.config())
    assert stopped.value.signal == signal.SIGTERM
    monkeypatch.undo()
    # Neither a log line nor a checkpoint was due.
    assert [path.name for path in list_checkpoints(out)] == ["step-00000004", "step-00000005"]
    assert not (out / "config.json").exists()
    workspace.train(out, runs.config(), resume=True)
    runs.same_run(out, whole, STEPS)


def test_stopped_in_the_warm_up(workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up = trainer.warm_up

    def signalled(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        warm_up(*arguments)

    monkeypatch.setattr(trainer, "warm_up", signalled)
    with pytest.raises(StoppedError, match="SIGINT: during the warm-up, of which nothing is saved"):
        workspace.train(tmp_path / "out", runs.config(warmup={"images": 4, "rounds": 2}))
    assert list_checkpoints(tmp_path / "out") == []


def test_stopped_while_the_vae_is_loaded(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = trainer.build_tokenizer

    def signalled(*arguments: Any) -> CodaTokenizer:
        os.kill(os.getpid(), signal.SIGTERM)
        return build(*arguments)

    monkeypatch.setattr(trainer, "build_tokenizer", signalled)
    with pytest.raises(StoppedError, match="SIGTERM: before the first step, with nothing to save; to continue"):
        workspace.train(tmp_path / "out", runs.config())
    assert not (tmp_path / "out").exists()


def test_stopped_while_the_basis_changes(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal is answered after the pass it came in, and told what is lost."""
    sensitivity = latent_basis.sensitivity
    passed: list[int] = []

    def signalled(vae: Any, family: Any, images: Any, generator: Any, progress: latent_basis.Progress) -> Any:
        def stop(done: int) -> None:
            passed.append(done)
            if done == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            progress(done)

        return sensitivity(vae, family, images, generator, stop)

    monkeypatch.setattr(latent_basis, "sensitivity", signalled)
    with pytest.raises(StoppedError, match=r"SIGTERM: during the warm-up, .* saved: 0:00:0\d of work is lost, and"):
        workspace.train(tmp_path / "out", runs.config(warmup={"equalise": True, "batch": 8}))
    assert passed == [1, 2]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "the warm-up comes first; it is not saved until it is complete"
    assert said[1].startswith("images 8/64  0:00:0")
    assert [line.split("  ")[0] for line in said if line.startswith("images")] == [
        f"images {n}/64" for n in range(8, 65, 8)
    ]
    assert list_checkpoints(tmp_path / "out") == []


def test_weights_begin_as_the_allocator_aligns_them(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded from safetensors is copied before the first step, of a new run and of one that goes on."""
    out, run = tmp_path / "out", Stepper.run
    unaligned: dict[int, list[str]] = {}

    def seen(self: Stepper, step: int, batches: list[Any]) -> Any:
        unaligned[step] = runs.unaligned(self.state.model)
        return run(self, step, batches)

    monkeypatch.setattr(Stepper, "run", seen)
    workspace.train(out, runs.config())
    assert unaligned[0] == []
    undo(out, 4)
    unaligned.clear()
    workspace.train(out, runs.config(), resume=True)
    assert unaligned.keys() == {4, 5}
    assert unaligned[4] == []


def test_a_line_that_was_cut(workspace: runs.Workspace, whole: Path, copied: Path) -> None:
    undo(copied, 4)
    with (copied / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "l1')
    workspace.train(copied, runs.config(), resume=True)
    runs.same_run(copied, whole, STEPS)


def test_another_number_of_workers(workspace: runs.Workspace, whole: Path, copied: Path) -> None:
    undo(copied, 4)
    workspace.train(copied, runs.config(data={"workers": 1}), resume=True)
    runs.same_run(copied, whole, STEPS)


def test_a_finished_run(workspace: runs.Workspace, whole: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="already holds a training run: give --resume to continue it, or another"):
        workspace.train(copied, runs.config())
    monkeypatch.setattr(trainer, "Stepper", None)
    before = (copied / "log.jsonl").read_text()
    metrics = workspace.train(copied, runs.config(), resume=True)
    assert (copied / "log.jsonl").read_text() == before
    assert metrics["step"] == STEPS
    runs.same_run(copied, whole, STEPS)
    # Killed after the last checkpoint, before the tokenizer was written.
    for name in ("config.json", "model.safetensors"):
        (copied / name).unlink()
    workspace.train(copied, runs.config(), resume=True)
    runs.same_run(copied, whole, STEPS)
    assert CodaTokenizer.from_pretrained(copied).spec.vocab_size == 32


def test_folders_that_are_taken(workspace: runs.Workspace, copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    vae = Path(shutil.copytree(workspace.vae, tmp_path / "vae"))
    file = tmp_path / "file"
    file.write_text("")
    for out in (copied, vae):
        for resume in (False, True):
            with pytest.raises(ConfigError, match="holds a model but no checkpoints to resume from: choose another"):
                workspace.train(out, runs.config(), resume=resume)
    with pytest.raises(OutputError, match="file is a file; expected the name of a folder to write to"):
        workspace.train(file, runs.config())
    assert file.read_text() == ""


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": {"lr": 0.5}}, "was trained with optim lr = 0.01, now it is 0.5: resume with the same"),
        ({"loss": {"l1": 0.3}}, "was trained with loss l1 = 0.2, now it is 0.3"),
        ({"optim": {"batch": 2}}, "was trained with optim batch = 4, now it is 2"),
        ({"tokenizer": {"latent_scale": 2.0}}, "was trained with tokenizer latent_scale = None, now it is 2.0"),
    ],
)
def test_another_configuration(
    workspace: runs.Workspace, copied: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        workspace.train(copied, runs.config(**sections), resume=True)


def test_other_images(workspace: runs.Workspace, copied: Path, tmp_path: Path) -> None:
    runs.write_photos(tmp_path / "photos", 13)
    with pytest.raises(ConfigError, match="was trained on 14 images, now --data holds 13"):
        trainer.train(runs.config(), tmp_path / "photos", copied, vae=workspace.vae, resume=True)


@pytest.mark.parametrize("name", ["training.safetensors", "model.safetensors", "training.json"])
def test_a_damaged_checkpoint(workspace: runs.Workspace, whole: Path, copied: Path, name: str) -> None:
    undo(copied, STEPS)
    newest = list_checkpoints(copied)[-1]
    os.truncate(newest / name, 100)
    with pytest.raises(WeightsError, match=r"step-00000006 is not a complete checkpoint \(.+\); delete it to continue"):
        workspace.train(copied, runs.config(), resume=True)
    shutil.rmtree(newest)
    workspace.train(copied, runs.config(), resume=True)
    runs.same_run(copied, whole, STEPS)
