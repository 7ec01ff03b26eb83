"""MAR's KL-16, the continuous VAE as its authors publish it: an LDM autoencoder in one file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from coda_deploy.official.keys import as_official, official_key
from coda_deploy.tokenizer.storage import check_weights, read_state
from coda_deploy.tokenizer.variants import VARIANTS


def read_kl16(path: str | os.PathLike[str]) -> AutoencoderKL:
    """Read ``kl16.safetensors`` or a plain state dict of the same names into a diffusers ``AutoencoderKL``, float32.

    Raises ``WeightsError`` for a damaged file, or a missing, extra or misshapen key, naming it.
    """
    file = Path(path)
    found = {key: tensor for key, tensor in read_state(file).items() if not key.startswith("loss.")}
    config = VARIANTS["mar_v16384"]
    with torch.device("meta"):
        vae = AutoencoderKL(**config.vae, scaling_factor=config.latent_scale)
    own = vae.state_dict()
    names = {key: official_key(f"vae.{key}", ldm=True)[1] for key in own}
    check_weights(found, {names[key]: as_official(names[key], tensor) for key, tensor in own.items()}, str(file))
    weights = {key: found[name].float().reshape(own[key].shape) for key, name in names.items()}
    vae.load_state_dict(weights, assign=True)
    return vae.eval()
