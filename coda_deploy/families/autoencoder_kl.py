"""AutoencoderKL, the VAE of latent diffusion and of most that came after it, and two classes built alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.families.base import DiffusersFamily, Settings, Shape, latent_channels
from coda_deploy.families.settings import MAX_LAYERS, same, whole_number, widths

if TYPE_CHECKING:
    from torch import nn

    from coda_export.folding.vae import VaeParts

# A diffusers Encoder's or Decoder's last layers with weights: GroupNorm, and after its SiLU the convolution.
LAST = ("conv_norm_out", "conv_out")


class AutoencoderKL(DiffusersFamily):
    """Quant convolutions where the VAE has them, attention in the middle, and nothing else that matters."""

    class_name = "AutoencoderKL"
    models = "SD 1.5, SDXL, SD 3.5, FLUX.1, MAR"
    folds = "scale and shift into the last and first convolution, quant convolutions, doublings"
    left_behind = "the variance"
    latent_path: ClassVar[str | None] = "encoder.conv_out"

    def shape(self, settings: Settings) -> Shape:
        """Count the levels: each but the last halves."""
        levels = widths(settings)
        whole_number(settings, "layers_per_block", 1, MAX_LAYERS)
        return Shape(latent_channels(settings), 2 ** (len(levels) - 1))

    def parts(self, vae: nn.Module) -> VaeParts:
        """Fold the quant convolution into the encoder's last; leave the other one before the decoder."""
        from coda_export.folding.vae import Kept, VaeParts, in_sequence, mean_of

        whole = cast(Any, vae)
        encoder, decoder = whole.encoder, whole.decoder
        encoder.conv_out = mean_of(encoder.conv_out, whole.quant_conv)
        if whole.post_quant_conv is None:
            return VaeParts(encoder, decoder, "conv_out", "conv_in", Kept(LAST), Kept(LAST))
        joined = in_sequence(post_quant_conv=whole.post_quant_conv, decoder=decoder)
        kept = Kept(tuple(f"decoder.{name}" for name in LAST))
        return VaeParts(encoder, joined, "conv_out", "post_quant_conv", Kept(LAST), kept)

    def basis_ends(self, vae: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """Return the quant convolutions, or the convolutions beside them."""
        whole = cast(Any, vae)
        last = whole.encoder.conv_out if whole.quant_conv is None else whole.quant_conv
        return last, whole.decoder.conv_in if whole.post_quant_conv is None else whole.post_quant_conv


class AsymmetricAutoencoderKL(AutoencoderKL):
    """A larger decoder than encoder. Without a mask, as here, the decoder's condition encoder does not run."""

    class_name = "AsymmetricAutoencoderKL"
    models = "the inpainting VAEs x 1.5 and x 2 of SD 1.5"
    left_behind = "the variance, the mask's condition encoder"

    def shape(self, settings: Settings) -> Shape:
        """Count the levels of both sides."""
        levels = [len(widths(settings, f"{way}_block_out_channels", (64,))) for way in ("down", "up")]
        for way in ("down", "up"):
            whole_number(settings, f"layers_per_{way}_block", 1, MAX_LAYERS)
        downsample = same("downsampling", 2 ** (levels[0] - 1), "upsampling", 2 ** (levels[1] - 1))
        return Shape(latent_channels(settings), downsample)

    def prepare(self, vae: nn.Module) -> nn.Module:
        """Drop all that waits for a mask."""
        from coda_deploy.families.unmasked import UnmaskedDecoder

        whole = cast(Any, vae)
        if not isinstance(whole.decoder, UnmaskedDecoder):
            whole.decoder = UnmaskedDecoder(whole.decoder)
        return vae
