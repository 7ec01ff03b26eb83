"""Tokenizers small enough for every test: real AutoencoderKL configurations with few channels, weights alive."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coda_deploy import CodaTokenizer, LoraConfig

LORA = LoraConfig(rank=2)

_SMALL: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}

# What the families differ in: channels of the latent, quant convolutions, scale and shift, attention.
VAES: dict[str, dict[str, Any]] = {
    "sd": {**_SMALL, "latent_channels": 4, "scaling_factor": 0.18215},
    "sdxl": {**_SMALL, "latent_channels": 4, "scaling_factor": 0.13025, "force_upcast": True},
    "flux": {
        **_SMALL,
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "mar": {
        **_SMALL,
        "latent_channels": 16,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "scaling_factor": 0.2325,
    },
    # Not a published family: both quant convolutions and a shift, which have to be folded together.
    "shifted": {**_SMALL, "latent_channels": 4, "scaling_factor": 0.7, "shift_factor": -0.9},
}
SCALES = (1, 2, 3, 5, 8)
IMAGE_SIZE = 32


@torch.no_grad()
def enliven(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights under which every part matters: biases far from 0, norms far from 1, LoRA not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("codebook"):
            parameter.copy_(0.4 * noise)
        elif parameter.ndim > 1:
            parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
        else:
            parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.3 * noise)


def make_vae(family: str = "sd", seed: int = 0) -> AutoencoderKL:
    vae = AutoencoderKL(**VAES[family])
    enliven(vae, seed)
    return vae.eval()


def make(
    family: str = "sd", *, vocab_size: int = 64, seed: int = 0, alive: bool = True, **settings: Any
) -> CodaTokenizer:
    """A tokenizer over one of VAES; ``alive`` makes LoRA and the quantizer random, else as from_vae left them."""
    settings = {"image_size": IMAGE_SIZE, "scales": SCALES, "attention_dim": 8, "lora": LORA} | settings
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = CodaTokenizer.from_vae(
            make_vae(family, seed), vocab_size=vocab_size, variant=f"tiny_{family}", **settings
        )
    if alive:
        enliven(tokenizer, seed + 1)
    return tokenizer.eval()


def images(count: int = 2, size: int = IMAGE_SIZE, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 [count, size, size, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return fine.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
