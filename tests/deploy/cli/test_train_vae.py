"""`coda train-vae`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from coda_deploy.cli.train_vae import command
from coda_deploy.train.checkpoint import list_checkpoints
from coda_runtime.cli.app import cli
from tests.deploy.cli.command import coda, one_line
from tests.deploy.train import runs
from tests.deploy.train.vae import trainings

_one_thread = runs.one_thread_each_module
STEPS = 200
LONG = [f"--set={text}" for text in (f"optim.steps={STEPS}", "save.every=100000", "save.log=1", "save.pictures=150")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    (root / "tiny.toml").write_text(trainings.config().to_toml())
    return runs.write_photos(root / "photos")


def arguments(photos: Path, out: Path, *more: object) -> list[str]:
    given = ["train-vae", "--config", photos.parent / "tiny.toml", "--data", photos, "--out", out]
    return [str(argument) for argument in [*given, *more]]


def test_a_configuration_is_shown_without_images() -> None:
    result = coda("train-vae", "--set", "loss.lpips=0", "--show-config")
    assert (result.exit_code, result.stderr) == (0, "")
    tables = tomllib.loads(result.stdout)
    assert (tables["loss"]["lpips"], tables["vae"]["latent_channels"]) == (0.0, 16)
    for missing, given in (("--data", ["--out", "x"]), ("--out", ["--data", "x"])):
        result = coda("train-vae", *given)
        assert result.exit_code == 2
        assert f"Missing option '{missing}'." in result.stderr


def test_from_photographs_to_a_tokenizer(photos: Path, tmp_path: Path) -> None:
    """As a user does it, each command a process."""
    vae, tokenizer = tmp_path / "vae", tmp_path / "tokenizer"
    (tmp_path / "tokenizer.toml").write_text(runs.config(optim={"steps": 2}).to_toml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    adapt = ["train", "--config", tmp_path / "tokenizer.toml", "--vae", vae, "--data", photos, "--out", tokenizer]
    for given in (arguments(photos, vae, "--json"), adapt):
        run = subprocess.run(
            [sys.executable, "-m", "coda_runtime.cli", *map(str, given)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        if given[0] == "train-vae":
            told = json.loads(run.stdout)
            assert (told["out"], told["step"]) == (str(vae), 6)
            assert run.stderr.splitlines()[0] == "14 images, 6 steps of 4"
            assert [line.split()[1] for line in run.stderr.splitlines()[1:]] == ["3/6", "6/6"]
            assert "\x1b" not in run.stderr
    assert (tokenizer / "model.safetensors").is_file()
    assert len(list((vae / "pictures").iterdir())) == 2


def test_it_says_what_comes_next(photos: Path, tmp_path: Path) -> None:
    result = coda(*arguments(photos, tmp_path / "out", "--set", "optim.steps=1"))
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{tmp_path}/out: 1 step, ")
    assert first.endswith(" dB on training images")
    assert second.startswith(f"next:  coda train --config CONFIG --vae {tmp_path}/out --data {photos} --out ")
    assert "already holds a training run: give --resume" in one_line(coda(*arguments(photos, tmp_path / "out")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config", "photo"], "no configuration 'photo': expected a TOML file, or one of photos, sample"),
        (["--set", "optim.lr_quantizer=2"], "has an unknown key 'lr_quantizer'; the nearest known one is 'lr"),
        (["--set", "vae.image_size=17"], "vae.image_size 17 is not a multiple of 2"),
        (["--data", "/no/such/place"], "there is no file or folder '/no/such/place'"),
        (["--set", "loss.lpips=1", "--set", "loss.lpips_weights=/none"], "loss.lpips_weights: there is no file /none"),
    ],
)
def test_failures_are_one_line(photos: Path, tmp_path: Path, more: list[str], message: str) -> None:
    assert message in one_line(coda(*arguments(photos, tmp_path / "out", *more)))
    assert not (tmp_path / "out").exists()


def test_missing_weights_name_the_command_that_brings_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ready configuration wants LPIPS; nothing is trained without it unless that is asked for."""
    from huggingface_hub import constants

    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    line = one_line(coda("train-vae", "--data", photos, "--out", tmp_path / "out"))
    assert "`coda weights lpips`" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def uninterrupted(photos: Path) -> Path:
    out = photos.parent / "uninterrupted"
    with runs.one_thread():
        assert coda(*arguments(photos, out, *LONG)).exit_code == 0
    return out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_stop(
    photos: Path, uninterrupted: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, told = tmp_path / "out", tmp_path / "told"
    run = runs.forked(lambda: cli(arguments(photos, out, *LONG)), told)
    pid = next(run)
    deadline = time.monotonic() + 60
    while not (out / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pid, number)
    assert next(run) == code, told.read_text()
    (saved,) = list_checkpoints(out)
    step = int(saved.name[-8:])
    last = told.read_text().splitlines()[-1]
    assert (
        last == f"stopped: {number.name}: saved at step {step} in {out}; to continue, repeat the command with --resume"
    )
    assert step < STEPS
    result = coda(*arguments(photos, out, *LONG, "--resume"))
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == f"resuming from step {step} of {STEPS}"
    trainings.same_run(out, uninterrupted, STEPS)


def test_its_help_says_what_it_needs() -> None:
    assert command.name == "train-vae"
    told = " ".join(coda("train-vae", "--help").stdout.split())
    assert "coda train --vae OUT" in told
    assert "`coda weights lpips` fetches" in told
    assert "--set loss.lpips=0 trains without" in told
