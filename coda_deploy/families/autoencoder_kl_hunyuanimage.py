"""AutoencoderKLHunyuanImage: an AutoencoderKL of 32 pixels a position, with residuals around its ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.errors import ConfigError
from coda_deploy.families.base import DiffusersFamily, Settings, Shape, latent_channels
from coda_deploy.families.settings import MAX_LAYERS, whole_number, widths

if TYPE_CHECKING:
    from torch import nn

    from coda_export.folding.vae import VaeParts


class AutoencoderKLHunyuanImage(DiffusersFamily):
    """A residual carries the latent past the first and the last convolution: scale and shift stay outside of both."""

    class_name = "AutoencoderKLHunyuanImage"
    models = "HunyuanImage 2.1"
    folds = "nothing but the tokenizer's own parts: its doublings are sub-pixel convolutions already"
    left_behind = "the variance"
    cannot: ClassVar = {"equalise": "residuals carry the latent past its last and first convolution"}

    def shape(self, settings: Settings) -> Shape:
        """Read the factor. Raises ``ConfigError`` where there are too few levels for it."""
        levels, factor = len(widths(settings)), whole_number(settings, "spatial_compression_ratio")
        whole_number(settings, "layers_per_block", limit=MAX_LAYERS)
        whole_number(settings, "sample_size")
        halvings = min(math.ceil(math.log2(factor)), levels - 1)
        if 2**halvings != factor:
            raise ConfigError(
                f"vae.spatial_compression_ratio is {factor}, and {levels} levels of vae.block_out_channels halve "
                f"{halvings} times: {2**halvings}"
            )
        return Shape(latent_channels(settings), factor)

    def parts(self, vae: nn.Module) -> VaeParts:
        """Cut the variances off, and put attention into a form of four dimensions, the only one PyTorch exports."""
        from diffusers.models.autoencoders.autoencoder_kl_hunyuanimage import HunyuanImageAttentionBlock

        from coda_deploy.families.attention import replace_attention
        from coda_export.folding.vae import Kept, Narrow, VaeParts, in_sequence

        whole, last = cast(Any, vae), ("norm_out", "conv_out")
        replace_attention(vae, HunyuanImageAttentionBlock)
        encoder = in_sequence(encoder=whole.encoder, mean=Narrow(whole.encoder.z_channels))
        return VaeParts(encoder, whole.decoder, None, None, Kept(tuple(f"encoder.{n}" for n in last)), Kept(last))
