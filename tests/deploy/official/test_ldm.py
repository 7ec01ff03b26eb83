"""MAR's VAE under its authors' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from coda_deploy import WeightsError
from coda_deploy.official import read_ldm
from coda_deploy.official.keys import as_ldm, official_key
from coda_deploy.tokenizer.variants import VARIANTS
from coda_deploy.train.build import build_tokenizer
from coda_deploy.train.config import read_config

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**VARIANTS["mar_v16384"].vae).eval()


def official(vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    named = {official_key(f"vae.{key}", ldm=True)[1]: tensor for key, tensor in vae.state_dict().items()}
    return {name: as_ldm(name, tensor).contiguous() for name, tensor in named.items()}


def test_it_computes_the_same(vae: AutoencoderKL, tmp_path: Path) -> None:
    state = official(vae)
    # Names of the LDM repository, which the importer's golden cases check against the published ones.
    assert state["encoder.down.4.attn.0.q.weight"].shape == (512, 512, 1, 1)
    assert "decoder.up.4.upsample.conv.weight" in state
    save_file({**state, "loss.discriminator.weight": torch.zeros(3)}, tmp_path / "kl16.safetensors")
    read = read_ldm(tmp_path / "kl16.safetensors")
    assert read.config.scaling_factor == 0.2325
    for key, tensor in vae.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor), key

    tokenizer = build_tokenizer(read_config("mar_v16384"), tmp_path / "kl16.safetensors")
    assert (tokenizer.config.latent_scale, tokenizer.config.latent_shift) == (0.2325, 0.0)
    assert tokenizer.spec == VARIANTS["mar_v16384"].spec


def test_a_missing_key_is_named(vae: AutoencoderKL, tmp_path: Path) -> None:
    state = official(vae)
    del state["encoder.conv_in.weight"]
    save_file(state, tmp_path / "kl16.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 keys, first 'encoder\.conv_in\.weight'"):
        read_ldm(tmp_path / "kl16.safetensors")
