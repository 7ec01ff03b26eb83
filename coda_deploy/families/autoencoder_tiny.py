"""AutoencoderTiny (TAESD and its kin): convolutions alone, and a plain latent without a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.errors import ConfigError
from coda_deploy.families.base import DiffusersFamily, Settings, Shape, latent_channels
from coda_deploy.families.settings import layer_counts, same, whole_number, widths

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_export.folding.vae import VaeParts

_WIDTHS, _DOWN, _UP = (64, 64, 64, 64), (1, 3, 3, 3), (3, 3, 3, 1)


class AutoencoderTiny(DiffusersFamily):
    """Its decoder begins with a soft clamp, so scale and shift stay before it as a multiplication and a sum."""

    class_name = "AutoencoderTiny"
    models = "TAESD, TAESDXL, TAESD3, TAEF1"
    # Of each block's three convolutions; the blocks are numbered among the layers, as `encoder.layers.3.conv.2`.
    lora_targets = (".conv.",)
    folds = "scale and shift into the encoder's last convolution, doublings"
    cannot: ClassVar = {"equalise": "its decoder clamps each channel of the latent, which a change of basis would mix"}

    def shape(self, settings: Settings) -> Shape:
        """Count the levels of both sides. Raises ``ConfigError`` where they differ."""
        down, up = (widths(settings, f"{part}_block_out_channels", _WIDTHS) for part in ("encoder", "decoder"))
        layer_counts(settings, "num_encoder_blocks", len(down), _DOWN)
        layer_counts(settings, "num_decoder_blocks", len(up), _UP)
        for name, wide in (("encoder", down), ("decoder", up)):
            if len(set(wide)) > 1:
                raise ConfigError(f"vae.{name}_block_out_channels must be all equal, found {list(wide)}")
        factor = whole_number(settings, "upsampling_scaling_factor", 2, 16)
        downsample = same("downsampling", 2 ** (len(down) - 1), "upsampling", factor ** (len(up) - 1))
        return Shape(latent_channels(settings), downsample)

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Encode: there is no posterior."""
        return cast("Tensor", cast(Any, vae).encode(pixels).latents)

    def parts(self, vae: nn.Module) -> VaeParts:
        """Name the ends, which are numbered."""
        from coda_export.folding.vae import Kept, VaeParts

        encoder, decoder = cast(Any, vae).encoder, cast(Any, vae).decoder
        last, end = (f"layers.{len(part.layers) - 1}" for part in (encoder, decoder))
        return VaeParts(encoder, decoder, last, None, Kept((last,)), Kept((end,)))
