"""MAR's VAE under its authors' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from coda_deploy import ConfigError, WeightsError
from coda_deploy.official import find_ldm, read_ldm
from coda_deploy.official.keys import as_ldm, ldm_name, official_key
from coda_deploy.tokenizer.variants import VARIANTS
from coda_deploy.train.build import build_tokenizer, open_vae
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
    del state["encoder.conv_in.bias"]
    save_file(state, tmp_path / "kl16.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 key, first 'encoder\.conv_in\.bias'"):
        read_ldm(tmp_path / "kl16.safetensors")
    save_file({"unet.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"no LDM autoencoder's: it has no 'encoder.conv_in.weight', first is 'u"):
        read_ldm(tmp_path / "other.safetensors")


_SMALL = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "layers_per_block": 1,
    "latent_channels": 8,
}


def test_any_shape_in_a_whole_model_s_checkpoint(tmp_path: Path) -> None:
    """VA-VAE's form: a training's checkpoint of other width, with what only its training needs."""
    torch.manual_seed(0)
    vae = AutoencoderKL(**_SMALL).eval()
    state = {ldm_name(key, 2): as_ldm(ldm_name(key, 2), tensor) for key, tensor in vae.state_dict().items()}
    whole = {f"first_stage_model.{name}": tensor for name, tensor in state.items()}
    whole |= {"first_stage_model.loss.logvar": torch.zeros(1), "model.diffusion_model.out.weight": torch.zeros(2)}
    torch.save({"state_dict": whole, "global_step": 3}, tmp_path / "model.ckpt")
    assert find_ldm(tmp_path) == find_ldm(tmp_path / "model.ckpt") == tmp_path / "model.ckpt"
    read = read_ldm(tmp_path / "model.ckpt")
    assert all(torch.equal(read.state_dict()[key], tensor) for key, tensor in vae.state_dict().items())
    assert {key: tuple(v) if isinstance(v := read.config[key], list) else v for key in _SMALL} == _SMALL
    with pytest.raises(ConfigError, match=r"does not say how its latent is scaled: give tokenizer\.latent_scale"):
        open_vae(tmp_path, has_scale=False)
    assert isinstance(open_vae(tmp_path, has_scale=True), AutoencoderKL)
