"""The two published tokenizers: their VAEs as diffusers ``AutoencoderKL`` configurations, and their schedules."""

from __future__ import annotations

from typing import Any

from coda_deploy.tokenizer.config import LoraConfig, TokenizerConfig

_COMMON: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "sample_size": 256,
}

# MAR KL-16 is an LDM autoencoder: its only attention outside the middle is in the encoder's last level.
_MAR_VAE: dict[str, Any] = {
    **_COMMON,
    "block_out_channels": (128, 128, 256, 256, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
_FLUX_VAE: dict[str, Any] = {
    **_COMMON,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

VARIANTS: dict[str, TokenizerConfig] = {
    "mar_v16384": TokenizerConfig(
        variant="mar_v16384",
        image_size=256,
        vocab_size=16384,
        scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        vae=_MAR_VAE,
        latent_scale=0.2325,
        # diffusers names the resampling convolutions upsamplers and downsamplers.
        lora=LoraConfig(rank=32, targets=("conv1", "conv2", "upsample", "downsample")),
    ),
    "flux_v65536": TokenizerConfig(
        variant="flux_v65536",
        image_size=256,
        vocab_size=65536,
        scales=(1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
        vae=_FLUX_VAE,
        latent_scale=0.3611,
        latent_shift=0.1159,
        lora=LoraConfig(rank=32, targets=("conv1", "conv2")),
    ),
}
