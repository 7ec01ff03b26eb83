"""A fresh tokenizer from a configuration and a VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from coda_deploy import ConfigError
from coda_deploy.train.build import build_tokenizer
from tests.deploy.train import runs


def test_it_is_what_the_configuration_says(workspace: runs.Workspace) -> None:
    settings = {
        "latent_scale": 0.5,
        "latent_shift": 0.25,
        "norm": "layer",
        "lora_targets": ["conv2"],
        "license": "MIT",
    }
    config = build_tokenizer(runs.config(tokenizer=settings), workspace.vae).config
    assert (config.variant, config.image_size, config.vocab_size, config.scales) == ("tiny", 16, 32, (1, 2, 4, 8))
    assert (config.latent_scale, config.latent_shift, config.norm, config.license) == (0.5, 0.25, "layer", "MIT")
    assert config.lora is not None
    assert (config.lora.rank, config.lora.targets) == (2, ("conv2",))
    assert build_tokenizer(runs.config(tokenizer={"lora_rank": 0}), workspace.vae).config.lora is None


def test_the_vae_is_named_by_either(workspace: runs.Workspace) -> None:
    for config, vae in ((runs.config(tokenizer={"vae": str(workspace.vae)}), None), (runs.config(), workspace.vae)):
        tokenizer = build_tokenizer(config, vae)
        pixels = torch.rand(1, 3, 16, 16) * 2 - 1
        # LoRA at zero: the VAE as it was.
        expected = runs.make_vae().encode(pixels).latent_dist.mode() * tokenizer.config.latent_scale
        torch.testing.assert_close(tokenizer.encode_latent(pixels), expected)
    with pytest.raises(ConfigError, match=r"no VAE to adapt: give --vae .*, or set tokenizer.vae"):
        build_tokenizer(runs.config())


def test_the_seed_decides_and_nobody_elses_randomness_changes(workspace: runs.Workspace) -> None:
    before = torch.get_rng_state()
    one, same, other = (
        build_tokenizer(runs.config(optim={"seed": seed}), workspace.vae).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    drawn = [key for key in one if not torch.equal(one[key], other[key])]
    assert "quantizer.codebook" in drawn
    assert any("lora_A" in key for key in drawn)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"image_size": 17}, "^image_size 17 is not a multiple of 2"),
        ({"image_size": 17, "scales": []}, "^image_size 17 is not a multiple of 2"),
        ({"scales": [1, 2, 4]}, r"the scale schedule \[1, 2, 4\] must end at 8, the latent's side"),
        ({"scales": [1, 4, 2, 8]}, "that rise strictly, or pairs .*, found"),
        ({"lora_targets": ["nothing"]}, r"LoRA targets \['nothing'\] match no Conv2d"),
        ({"vocab_size": 1}, "vocab_size must be at least 2"),
        ({"latent_scale": -1.0}, "latent_scale must be positive"),
    ],
)
def test_what_does_not_fit(workspace: runs.Workspace, tokenizer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_tokenizer(runs.config(tokenizer=tokenizer), workspace.vae)


def test_a_vae_of_grey_images(tmp_path: Path) -> None:
    AutoencoderKL(**{**runs.SETTINGS, "in_channels": 1}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="takes images of 1 channels and gives 3, expected 3 and 3: RGB"):
        build_tokenizer(runs.config(), tmp_path)
