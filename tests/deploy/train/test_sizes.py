"""Training at other sizes: rectangles, schedules, and on from a tokenizer of another size."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from coda_deploy import CodaTokenizer
from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.schedule import default_scales
from coda_deploy.train.config import TrainConfig, read_config
from coda_deploy.train.trainer import train
from tests.deploy.cli.command import coda
from tests.deploy.train import runs

_one_thread = runs.one_thread_each_module
WIDE: dict[str, Any] = {"image_size": [12, 20], "scales": [[1, 1], [2, 3], [6, 10]]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> runs.Workspace:
    return runs.Workspace(tmp_path_factory.mktemp("sizes"))


@pytest.fixture(scope="module")
def square(workspace: runs.Workspace) -> Path:
    """A tokenizer of 16 x 16, trained for two steps."""
    workspace.train(workspace.root / "square", runs.config(optim={"steps": 2}))
    return workspace.root / "square"


def test_a_rectangle_is_trained_and_resumed(workspace: runs.Workspace, tmp_path: Path) -> None:
    config = runs.config(tokenizer=WIDE, loss={"prefix": 1.0}, warmup={"images": 8, "rounds": 2}, save={"pictures": 6})
    workspace.train(tmp_path / "whole", config)
    made = CodaTokenizer.from_pretrained(tmp_path / "whole")
    assert (made.spec.image_size, made.spec.scales) == ((12, 20), ((1, 1), (2, 3), (6, 10)))
    assert list((tmp_path / "whole" / "pictures").iterdir())
    # A resumed run reads the sizes of its checkpoint back as they were.
    again = TrainConfig.from_tables(tomllib.loads((tmp_path / "whole" / "train.toml").read_text()))
    assert again == dataclasses.replace(config, tokenizer=again.tokenizer)
    assert (again.tokenizer.image_size, again.tokenizer.scales) == ((12, 20), ((1, 1), (2, 3), (6, 10)))
    workspace.train(tmp_path / "whole", again, resume=True)
    with pytest.raises(ConfigError, match=r"tokenizer image_size = \[12, 20\], now it is 16"):
        workspace.train(tmp_path / "whole", runs.config(), resume=True)


def test_on_from_a_tokenizer_of_another_size(workspace: runs.Workspace, square: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 every weight is still what it was: nothing is drawn anew, and no warm-up is run."""
    config = runs.config(
        tokenizer=WIDE, optim={"steps": 1, "lr": 0.0, "lr_quantizer": 0.0}, warmup={"images": 8, "rounds": 2}
    )
    train(config, workspace.photos, tmp_path / "wide", init=square)
    before, after = (CodaTokenizer.from_pretrained(folder) for folder in (square, tmp_path / "wide"))
    assert after.spec.image_size == (12, 20)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    assert f'init = "{square}"' in (tmp_path / "wide" / "train.toml").read_text()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"vocab_size": 64},
            r"tokenizer.vocab_size is 64, and .*square has 32, which is kept: set",
        ),
        ({"lora_rank": 0}, "tokenizer.lora_rank is 0, and .* has 2"),
        ({"image_size": 15, "scales": []}, "image_size 15 is not a multiple of 2.*choose 14 or 16"),
        ({"image_size": [12, 20]}, r"\[1, 2, 4, 8\] must end at \[6, 10\], the latent's height and width"),
    ],
)
def test_what_a_tokenizer_does_not_fit(
    workspace: runs.Workspace, square: Path, tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(runs.config(tokenizer=section), workspace.photos, tmp_path / "out", init=square)


def test_one_start_is_enough(workspace: runs.Workspace, square: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --vae or --init"):
        train(runs.config(), workspace.photos, tmp_path / "out", vae=workspace.vae, init=square)


def test_the_options(workspace: runs.Workspace, square: Path, tmp_path: Path) -> None:
    (workspace.root / "plain.toml").write_text(runs.config(optim={"steps": 1}).to_toml())
    given = ("train", "--config", str(workspace.root / "plain.toml"), "--data", str(workspace.photos))
    done = coda(*given, "--init", str(square), "--image-size", "12x20", "--out", str(tmp_path / "wide"))
    assert done.exit_code == 0, done.output
    assert CodaTokenizer.from_pretrained(tmp_path / "wide").spec.scales == default_scales((6, 10))
    shown = coda("train", "--config", "flux_v65536", "--image-size", "512", "--show-config").stdout
    assert tomllib.loads(shown)["tokenizer"]["image_size"] == 512
    assert tomllib.loads(shown)["tokenizer"]["scales"] == []
    shown = coda("train", "--config", "flux_v65536", "--schedule", "1x1,2x3", "--show-config").stdout
    assert tomllib.loads(shown)["tokenizer"]["scales"] == [[1, 1], [2, 3]]
    wrong = coda("train", "--config", "sample", "--image-size", "12*20", "--show-config")
    assert wrong.exit_code == 2
    assert "expected a side in pixels such as 512, or height and width such as 192x320" in wrong.stderr


def test_a_schedule_of_one_kind() -> None:
    for scales in ([[1, 1], [2, 3]], [1, 2, 4]):
        read = read_config("sample", [f"tokenizer.scales={scales}"])
        assert TrainConfig.from_tables(tomllib.loads(read.to_toml())) == read
    with pytest.raises(ConfigError, match=r"tokenizer.scales is \[1, 2, 3\], expected 1 or more, or \[height, width\]"):
        read_config("sample", ["tokenizer.scales=[[1, 2, 3]]"])
    with pytest.raises(ConfigError, match=r"tokenizer.image_size is 'x', expected a whole number"):
        read_config("sample", ["tokenizer.image_size=x"])
