"""AutoencoderDC (DC-AE, of SANA): 32 or 64 pixels a position, residuals around changes of size, linear attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.families.base import DiffusersFamily, Settings, Shape, latent_channels
from coda_deploy.families.settings import layer_counts, same, widths

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_export.folding.vae import VaeParts

_WIDTHS = (128, 256, 512, 512, 1024, 1024)
_LAYERS = {"encoder": (2, 2, 2, 3, 3, 3), "decoder": (3, 3, 3, 3, 3, 3)}


class AutoencoderDC(DiffusersFamily):
    """Around the first and the last convolution a residual carries the latent: scale and shift stay outside of both."""

    class_name = "AutoencoderDC"
    models = "DC-AE f32 and f64, SANA"
    # Residual blocks; in the attention's blocks what mixes channels, projections and 1x1 convolutions.
    lora_targets = ("conv1", "conv2", "attn.to_", "conv_inverted", "conv_point")
    lora_linear = True
    folds = "doublings by interpolation"
    cannot: ClassVar = {"equalise": "residuals carry the latent past its last and first convolution"}

    def shape(self, settings: Settings) -> Shape:
        """Count the levels of both sides. A level without layers is left out, and the next halves in its place."""
        downs = []
        for part, layers in _LAYERS.items():
            wide = widths(settings, f"{part}_block_out_channels", _WIDTHS)
            layer_counts(settings, f"{part}_layers_per_block", len(wide), layers)
            downs.append(2 ** (len(wide) - 1))
        return Shape(latent_channels(settings), same("downsampling", downs[0], "upsampling", downs[1]))

    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return in_channels, which are those of both sides."""
        channels = settings.get("in_channels", 3)
        return channels, channels

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Encode: there is no posterior."""
        return cast("Tensor", cast(Any, vae).encode(pixels).latent)

    def parts(self, vae: nn.Module) -> VaeParts:
        """Put attention into a form that a graph keeps."""
        from coda_deploy.families.linear_attention import bound_attention
        from coda_export.folding.vae import Kept, VaeParts

        encoder, decoder = cast(Any, vae).encoder, cast(Any, vae).decoder
        bound_attention(vae)
        kept = Kept(("norm_out", "conv_out"))
        return VaeParts(encoder, decoder, None, None, Kept(("conv_out",)), kept)
