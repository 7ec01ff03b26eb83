"""Trainings of a VAE small enough for tests: 5,000 weights on squares of 16 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from coda_deploy.train.vae.config import VaeTrainConfig
from tests.deploy.train import runs

PLAIN: dict[str, dict[str, Any]] = {
    "vae": {"image_size": 16, "block_out_channels": [4, 8], "latent_channels": 4, "norm_num_groups": 2},
    "data": {"zoom": 1.125, "workers": 0, "flip": True},
    # No line of the log ends where a checkpoint is written, but for the last.
    "optim": {"steps": 6, "batch": 4, "lr": 1e-2, "lr_warmup": 2, "ema": 0.5},
    "loss": {"lpips": 0.0, "kl": 1e-4},
    "save": {"every": 2, "log": 3, "pictures": 3, "keep": 2},
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(**sections: dict[str, Any]) -> VaeTrainConfig:
    """PLAIN with some keys changed."""
    names = PLAIN.keys() | sections.keys()
    return VaeTrainConfig.from_tables({name: PLAIN.get(name, {}) | sections.get(name, {}) for name in names})


def same_run(out: Path, other: Path, step: int) -> None:
    """Equal to the last bit: the log, the last checkpoint with all its states, the VAE and the pictures."""
    assert runs.log(out) == runs.log(other)
    last = Path("checkpoints") / f"step-{step:08}"
    for name in ("config.json", last / "config.json"):
        assert (out / name).read_text() == (other / name).read_text()
    for name in (WEIGHTS, last / WEIGHTS, last / "training.safetensors"):
        one, two = load_file(out / name), load_file(other / name)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
    drawn = [{path.name: path.read_bytes() for path in (folder / "pictures").iterdir()} for folder in (out, other)]
    assert drawn[0] == drawn[1]
