"""A VAE's training configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from coda_deploy import ConfigError
from coda_deploy.train.vae.config import VaeTrainConfig, named_configs, read_config


@pytest.mark.parametrize("name", ["photos", "sample"])
def test_the_ready_ones_are_read_and_come_back(name: str, tmp_path: Path) -> None:
    assert name in named_configs()
    config = read_config(name)
    (tmp_path / "copy.toml").write_text(config.to_toml())
    assert read_config(tmp_path / "copy.toml") == config
    assert VaeTrainConfig.from_tables(config.to_json()) == config


def test_the_samples_is_the_network_that_ships() -> None:
    import json

    from coda_deploy.sample import tokenizer_path

    shipped = json.loads((tokenizer_path() / "config.json").read_text())["vae"]
    for key, value in read_config("sample").to_json()["vae"].items():
        if key != "image_size":
            assert shipped[key] == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vae.chanels=3", "unknown key 'chanels'; the nearest known one is 'latent_channels'"),
        ("warmup.steps=3", "photos has an unknown table 'warmup'"),
        ("optim.lr_quantizer=1", "unknown key 'lr_quantizer'"),
        ("loss.vq=1", "unknown key 'vq'"),
        ("loss.kl=-1", "loss.kl is -1.0, expected 0 or more"),
        ("optim.batch=0", "optim.batch is 0, expected 1 or more"),
        ("vae.image_size=0", "vae.image_size is 0, expected 1 or more"),
        ("vae.image_size=60", "vae.image_size 60 is not a multiple of 8, by which the 4 levels"),
        ("vae.norm_num_groups=5", r"block_out_channels has 32, which vae.norm_num_groups = 5 does not divide"),
        ("vae.block_out_channels=[]", r"vae.block_out_channels is \[\], expected widths of 1 or more"),
        ("vae.block_out_channels=[0, 4]", r"expected widths of 1 or more"),
    ],
)
def test_settings_that_are_rejected(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config("photos", [override])


def test_nothing_to_do() -> None:
    with pytest.raises(ConfigError, match="nothing would compare images"):
        read_config("photos", ["loss.l1=0", "loss.l2=0", "loss.lpips=0"])
    with pytest.raises(ConfigError, match=r"no configuration 'nothing': .* or one of photos, sample"):
        read_config("nothing")
