"""A small VAE of every class that has a family, and of the forms that a class comes in; random, weights alive."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from coda_deploy import CodaTokenizer, LoraConfig
from coda_deploy.families import USER_MODULE, family_of_module
from tests.tiny_tokenizers import VAES, enliven

IMAGE_SIZE = 32
_KL: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
_DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_out_channels": (8, 16, 32),
    "decoder_block_out_channels": (8, 16, 32),
    "encoder_layers_per_block": (1, 2, 1),
    "decoder_layers_per_block": (1, 2, 1),
    "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "encoder_qkv_multiscales": ((), (), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,)),
    "scaling_factor": 0.41407,
}
_VIDEO: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True],
    "latents_mean": [0.5, -0.3, 0.1, -1.0],
    "latents_std": [1.5, 0.7, 2.0, 1.1],
}

# Names of forms -> (class, configuration).
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "AutoencoderKL": ("AutoencoderKL", VAES["shifted"]),
    "AutoencoderKL, statistics a channel": (
        "AutoencoderKL",
        {**VAES["sd"], "latents_mean": [0.5, -0.3, 0.1, -1.0], "latents_std": [1.5, 0.7, 2.0, 1.1]},
    ),
    "AutoencoderKLFlux2": ("AutoencoderKLFlux2", {**_KL, "block_out_channels": (8, 16, 16), "layers_per_block": 1}),
    "AutoencoderKLFlux2, no quant convolutions": (
        "AutoencoderKLFlux2",
        {
            **_KL,
            "block_out_channels": (8, 16, 16),
            "layers_per_block": 1,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    ),
    "AutoencoderTiny": (
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8),
            "num_encoder_blocks": (1, 1, 1),
            "num_decoder_blocks": (1, 1, 1),
            "scaling_factor": 0.7,
            "shift_factor": 0.2,
        },
    ),
    "AutoencoderDC": (
        "AutoencoderDC",
        {**_DC, "upsample_block_type": "interpolate", "downsample_block_type": "Conv"},
    ),
    "AutoencoderDC, sub-pixel": (
        "AutoencoderDC",
        {
            **_DC,
            "encoder_layers_per_block": (0, 1, 1),
            "decoder_layers_per_block": (0, 1, 1),
            "decoder_norm_types": ("batch_norm", "batch_norm", "rms_norm"),
            "decoder_act_fns": ("relu", "relu", "silu"),
        },
    ),
    "AsymmetricAutoencoderKL": (
        "AsymmetricAutoencoderKL",
        {**_KL, "down_block_out_channels": (8, 16, 16), "up_block_out_channels": (16, 16, 16)},
    ),
    "AutoencoderKLHunyuanImage": (
        "AutoencoderKLHunyuanImage",
        {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": (32, 32, 64),
            "layers_per_block": 1,
            "spatial_compression_ratio": 4,
            "sample_size": 32,
            "scaling_factor": 0.75289,
        },
    ),
    "AutoencoderKLQwenImage": ("AutoencoderKLQwenImage", _VIDEO),
    "AutoencoderKLWan": ("AutoencoderKLWan", _VIDEO),
    "AutoencoderKLWan, 2.2": (
        "AutoencoderKLWan",
        {
            **_VIDEO,
            "base_dim": 8,
            "decoder_base_dim": 16,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 8,
        },
    ),
    "UserModule": (USER_MODULE.class_name, {}),
}


class OwnVae(nn.Module):
    """Not like any of diffusers'; a projection too, and statistics that nobody trains."""

    latent_channels = 6
    downsample = 4
    keep_float32 = ("to_latent", "to_image.1")

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.BatchNorm2d(width)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Linear(width, width)
        self.to_latent = nn.Conv2d(width, self.latent_channels, 3, padding=1)
        self.from_latent = nn.Conv2d(self.latent_channels, 4 * width, 3, padding=1)
        self.behind = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.to_image = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, 3, 3, padding=1))

    def encode(self, x: Tensor) -> Tensor:
        hidden = self.middle(nn.functional.silu(self.norm(self.stem(x))))
        mixed: Tensor = self.to_latent(hidden + self.mix(hidden.movedim(1, -1)).movedim(-1, 1))
        return mixed

    def decode(self, latent: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.behind(nn.functional.silu(self.from_latent(latent))))
        hidden = nn.functional.pixel_shuffle(hidden, 2)
        images: Tensor = self.to_image(hidden)
        return images


def make_family_vae(form: str, seed: int = 0) -> nn.Module:
    """The VAE as its class makes it, before anything is prepared."""
    name, settings = FORMS[form]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae: nn.Module = OwnVae() if name == USER_MODULE.class_name else getattr(diffusers, name)(**settings)
    enliven(vae, seed)
    generator = torch.Generator().manual_seed(seed)
    for key, buffer in vae.named_buffers():
        if key.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        elif key.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return vae.eval()


def make_family(
    form: str, *, vocab_size: int = 64, seed: int = 0, alive: bool = True, **settings: Any
) -> CodaTokenizer:
    """A tokenizer of it; ``alive`` makes LoRA and the quantizer random, else as from_vae left them."""
    vae = make_family_vae(form, seed)
    settings = {"image_size": IMAGE_SIZE, "attention_dim": 8, "lora": LoraConfig(2)} | settings
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        family = family_of_module(vae)
        side = settings["image_size"] // family.shape(family.settings(vae)).downsample
        scales = (*(scale for scale in (1, 2, 3, 5) if scale < side), side)
        tokenizer = CodaTokenizer.from_vae(vae, vocab_size=vocab_size, scales=scales, variant="tiny", **settings)
    if alive:
        enliven_adapters(tokenizer, seed + 1)
    return tokenizer.eval()


def enliven_adapters(tokenizer: CodaTokenizer, seed: int) -> None:
    """Make what trains random, and leave the VAE: a second time some families' activations would overflow."""
    trained = nn.Module()
    for name, parameter in tokenizer.trainable():
        trained.register_parameter(name.replace(".", "_"), parameter)
    enliven(trained, seed)
