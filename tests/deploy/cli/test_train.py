"""`coda train`."""

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

from coda_deploy.train import launch
from coda_deploy.train.checkpoint import list_checkpoints
from coda_deploy.train.config import read_config
from coda_runtime.cli.app import cli
from tests.deploy.cli.command import coda, one_line
from tests.deploy.train import runs

ROOT = Path(__file__).parents[3]
_one_thread = runs.one_thread_each_module


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> runs.Workspace:
    found = runs.Workspace(tmp_path_factory.mktemp("cli"))
    (found.root / "plain.toml").write_text(runs.config().to_toml())
    return found


def arguments(workspace: runs.Workspace, out: Path, *more: object) -> list[str]:
    given = [
        "train",
        "--config",
        workspace.root / "plain.toml",
        "--data",
        workspace.photos,
        "--vae",
        workspace.vae,
        "--out",
        out,
    ]
    return [str(argument) for argument in [*given, *more]]


def test_help_has_an_example() -> None:
    result = coda("train", "--help")
    assert result.exit_code == 0
    assert "coda train --config flux_v65536 --data imagenet/train --out tokenizer/" in result.stdout
    assert "torchrun --nproc-per-node 8 --no-python coda train" in result.stdout


def test_the_configuration_is_shown_and_nothing_done(workspace: runs.Workspace) -> None:
    result = coda("train", "--config", "mar_v16384", "--set", "optim.batch=8", "--show-config")
    assert (result.exit_code, result.stderr) == (0, "")
    tables = tomllib.loads(result.stdout)
    assert tables["optim"]["batch"] == 8
    assert tables["save"]["keep"] == 3  # a default
    for missing in ("--data", "--out"):
        given = [text for text in arguments(workspace, workspace.root / "none") if text != str(workspace.root / "none")]
        given = [text for text in given if text not in (missing, str(workspace.photos) if missing == "--data" else "")]
        given = given if missing == "--out" else [*given, str(workspace.root / "none")]
        result = coda(*[text for text in given if text != missing])
        assert result.exit_code == 2
        assert f"Missing option '{missing}'." in result.stderr


@pytest.mark.parametrize(
    ("config", "more", "steps", "images"),
    [
        ("mar_v16384", ["--latent-warmup", 300], 300, 2048),
        ("mar_v16384", ["--latent-warmup", 300, "--set", "warmup.images=64"], 300, 64),
        ("sample", ["--latent-warmup", 7], 7, read_config("sample").warmup.images),
        ("sample", ["--latent-warmup", 0], 0, 0),
        ("sample", ["--latent-warmup", 0, "--set", "warmup.images=9"], 0, 9),
    ],
)
def test_a_warm_up_is_asked_for(config: str, more: list[object], steps: int, images: int) -> None:
    result = coda("train", "--config", config, *more, "--show-config")
    assert result.exit_code == 0, result.output
    warmup = tomllib.loads(result.stdout)["warmup"]
    assert (warmup["steps"], warmup["images"]) == (steps, images)


def test_it_trains_and_tells(workspace: runs.Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = coda(*arguments(workspace, out))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    steps = [line.split()[1] for line in result.stderr.splitlines() if line.startswith("step ")]
    assert steps == ["3/6", "6/6"]
    assert result.stderr.splitlines()[0] == "14 images, 6 steps of 4"
    assert len(result.stderr.splitlines()) == 3
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{out}: 6 steps, ")
    assert rest == [f"next:  coda eval {out} --data IMAGES", f"       coda export {out} --out bundle/"]
    # Again: refused, or with --resume nothing to do but to tell.
    assert "already holds a training run: give --resume" in one_line(coda(*arguments(workspace, out)))
    result = coda(*arguments(workspace, out, "--resume", "--json"))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told.pop("out"), told["step"]) == (str(out), 6)
    assert told == json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert result.stderr.splitlines() == ["resuming from step 6 of 6"]


def test_only_the_first_process_tells(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    result = coda(*arguments(workspace, tmp_path / "out", "--set", "optim.steps=1", "--json"))
    assert (result.exit_code, result.stdout) == (0, "")


def test_settings_change_the_run(workspace: runs.Workspace, tmp_path: Path) -> None:
    result = coda(*arguments(workspace, tmp_path / "out", "--set", "optim.steps=1", "--set", "optim.batch=2"))
    assert result.exit_code == 0, result.output
    copy = read_config(tmp_path / "out" / "train.toml")
    assert (copy.optim.steps, copy.optim.batch) == (1, 2)
    assert copy.tokenizer.vae == str(workspace.vae), "so that the run can be made again"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config", "flux"], "no configuration 'flux': expected a TOML file, or one of flux_v65536, mar_v16384"),
        (["--set", "optim.batchsize=2"], "unknown key 'batchsize'; the nearest known one is 'batch'"),
        (["--set", "tokenizer.image_size=17"], "image_size 17 is not a multiple of 2"),
        (["--vae", "nobody/nothing"], "could be loaded from the hub"),
        (["--data", "/no/such/place"], "there is no file or folder '/no/such/place'"),
        (["--set", "loss.lpips=1", "--set", "loss.lpips_weights=/none"], "loss.lpips_weights: there is no file /none"),
    ],
)
def test_failures_are_one_line(
    workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert message in one_line(coda(*arguments(workspace, tmp_path / "out", *more)))


def test_a_training_that_diverges(workspace: runs.Workspace, tmp_path: Path) -> None:
    result = coda(*arguments(workspace, tmp_path / "out", "--set", "optim.lr=1e30", "--set", "optim.lr_quantizer=1e30"))
    begun, failed = result.stderr.splitlines()
    assert (result.exit_code, begun) == (1, "14 images, 6 steps of 4")
    assert failed.startswith("error: l1 is not finite at step")


def test_no_tracker(workspace: runs.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    line = one_line(coda(*arguments(workspace, tmp_path / "out", "--set", "save.tracking=wandb")))
    assert line.endswith('install it: pip install "wandb>=0.18"')


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_stop(workspace: runs.Workspace, tmp_path: Path, number: signal.Signals, code: int) -> None:
    out, told = tmp_path / "out", tmp_path / "told"
    endless = arguments(
        workspace, out, "--set", "optim.steps=5000", "--set", "save.every=100000", "--set", "save.log=1"
    )
    run = runs.forked(lambda: cli(endless), told)
    pid = next(run)
    deadline = time.monotonic() + 60
    while not (out / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pid, number)
    assert next(run) == code
    last = told.read_text().splitlines()[-1]
    (saved,) = list_checkpoints(out)
    step = int(saved.name[-8:])
    assert (
        last == f"stopped: {number.name}: saved at step {step} in {out}; to continue, repeat the command with --resume"
    )
    assert len(runs.log(out)) == step
    assert "Traceback" not in told.read_text()


@pytest.mark.slow
def test_torchrun(workspace: runs.Workspace, tmp_path: Path) -> None:
    """As a user starts two processes, and stops them; one goes on, and ends where one alone would have."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    settings = ["--set", "optim.steps=40", "--set", "save.every=1000", "--set", "save.log=1"]
    # So small that no rounding error grows to another token.
    settings += ["--set", "optim.lr=1e-6", "--set", "optim.lr_quantizer=1e-6"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "--no-python", str(Path(sys.executable).with_name("coda"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *arguments(workspace, out, *settings, "--set", "optim.batch=2")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        deadline = time.monotonic() + 100
        while not (out / "log.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    assert stderr.count("stopped: SIGTERM: saved at step ") == 1, stderr
    assert len(list_checkpoints(out)) == 1
    result = coda(*arguments(workspace, out, *settings, "--set", "optim.batch=4", "--resume"))
    assert result.exit_code == 0, result.output
    assert coda(*arguments(workspace, alone, *settings)).exit_code == 0
    for line, expected in zip(runs.log(out), runs.log(alone), strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-4)
