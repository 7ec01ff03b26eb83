"""AutoencoderKLFlux2: generators see its latent in patches of 2 x 2 positions, normalised by statistics of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.errors import ConfigError
from coda_deploy.families.autoencoder_kl import LAST, AutoencoderKL
from coda_deploy.families.base import Settings, Shape, Statistics
from coda_deploy.families.settings import MAX_LAYERS, same, whole_number, widths

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_export.folding.vae import VaeParts

_PATCH = 2


class AutoencoderKLFlux2(AutoencoderKL):
    """The tokenizer's latent is the patched one: four times the channels, half the sides.

    The batch normalisation's running mean and variance become the configuration's shift and scale, one a channel.
    """

    class_name = "AutoencoderKLFlux2"
    models = "FLUX.2"
    folds = "patches, scale and shift into the last convolution, and into the first one; doublings"
    left_behind = "the variance, the batch normalisation (its statistics are the scale and shift)"
    cannot: ClassVar = {"equalise": "a patch's channels come out of one convolution at four positions"}

    def shape(self, settings: Settings) -> Shape:
        """Count levels and patches."""
        levels = widths(settings, default=(128, 256, 512, 512))
        decoder = settings.get("decoder_block_out_channels")
        up = len(levels) if decoder is None else len(widths(settings, "decoder_block_out_channels"))
        same("downsampling", 2 ** (len(levels) - 1), "upsampling", 2 ** (up - 1))
        whole_number(settings, "layers_per_block", 1, MAX_LAYERS)
        patch = settings.get("patch_size", (_PATCH, _PATCH))
        if list(patch if isinstance(patch, (list, tuple)) else ()) != [_PATCH, _PATCH]:
            raise ConfigError(f"vae.patch_size is {patch!r}, expected [{_PATCH}, {_PATCH}]: FLUX.2's")
        channels = whole_number(settings, "latent_channels", 32)
        return Shape(_PATCH**2 * channels, _PATCH * 2 ** (len(levels) - 1))

    def statistics(self, vae: nn.Module) -> Statistics:
        """Read the batch normalisation's buffers. Raises ``ConfigError`` where they were left behind before."""
        norm = getattr(vae, "bn", None)
        if norm is None:
            raise ConfigError(
                "this AutoencoderKLFlux2 has no batch normalisation, which holds its latent's statistics: it is a "
                "tokenizer's already; load the VAE again from where it was published"
            )
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        mean = norm.running_mean.double()
        return Statistics(tuple(scale.tolist()), tuple(mean.tolist()), "the batch normalisation's running statistics")

    def prepare(self, vae: nn.Module) -> nn.Module:
        """Drop the batch normalisation."""
        if hasattr(vae, "bn"):
            del vae.bn
        return vae

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Take the posterior's mode in patches."""
        from torch.nn.functional import pixel_unshuffle

        return pixel_unshuffle(super().encode(vae, pixels), _PATCH)

    def decode(self, vae: nn.Module, latent: Tensor) -> Tensor:
        """Take the patches apart and decode."""
        from torch.nn.functional import pixel_shuffle

        return super().decode(vae, pixel_shuffle(latent, _PATCH))

    def parts(self, vae: nn.Module) -> VaeParts:
        """Let the last convolution write patches, and a 1x1 one read them, with whatever else is linear there."""
        from torch import nn

        from coda_export.folding.vae import Kept, VaeParts, in_sequence, mean_of, on_patches, patched

        whole = cast(Any, vae)
        encoder, decoder = whole.encoder, whole.decoder
        encoder.conv_out = patched(mean_of(encoder.conv_out, whole.quant_conv), _PATCH)
        kept = Kept(tuple(f"decoder.{name}" for name in LAST))
        shuffle = nn.PixelShuffle(_PATCH)
        if whole.post_quant_conv is None:
            joined = in_sequence(shuffle=shuffle, decoder=decoder)
            return VaeParts(encoder, joined, "conv_out", None, Kept(LAST), kept)
        joined = in_sequence(
            post_quant_conv=on_patches(whole.post_quant_conv, _PATCH), shuffle=shuffle, decoder=decoder
        )
        return VaeParts(encoder, joined, "conv_out", "post_quant_conv", Kept(LAST), kept)

    def basis_ends(self, vae: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """Return None: see ``cannot``."""
        return None
