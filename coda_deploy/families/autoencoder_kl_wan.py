"""AutoencoderKLWan and AutoencoderKLQwenImage: VAEs of video, of which a tokenizer takes what one frame needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.errors import ConfigError
from coda_deploy.families.base import DiffusersFamily, Settings, Shape
from coda_deploy.families.settings import MAX_LAYERS, MAX_LEVELS, whole_number, widths
from coda_runtime.io.counts import count
from coda_runtime.io.json_fields import describe, is_int

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_deploy.families.frame import VideoBlocks
    from coda_export.folding.vae import VaeParts

_MULTIPLES = (1, 2, 4, 4)
_LAST = ("norm_out", "conv_out")


class AutoencoderKLQwenImage(DiffusersFamily):
    """Its latent has a mean and a deviation for each channel."""

    class_name = "AutoencoderKLQwenImage"
    models = "Qwen-Image"
    folds = (
        "3D convolutions into 2D ones at load; scale and shift and quant convolutions into the last and first one; "
        "doublings"
    )
    left_behind = "the variance, all that mixes frames"
    latent_path: ClassVar[str | None] = "encoder.conv_out"

    def blocks(self) -> VideoBlocks:
        """Import the classes that are replaced."""
        from diffusers.models.autoencoders import autoencoder_kl_qwenimage as network

        from coda_deploy.families.frame import VideoBlocks

        return VideoBlocks(
            network.QwenImageCausalConv3d,
            network.QwenImageRMS_norm,
            network.QwenImageResample,
            network.QwenImageAttentionBlock,
        )

    def shape(self, settings: Settings) -> Shape:
        """Count the levels: each but the last halves."""
        levels = len(widths(settings, "dim_mult", _MULTIPLES))
        whole_number(settings, "base_dim", 96)
        whole_number(settings, "num_res_blocks", 2, MAX_LAYERS)
        frames = settings.get("temperal_downsample", (False, True, True))
        listed = frames if isinstance(frames, (list, tuple)) else ()
        if not levels - 1 <= len(listed) <= MAX_LEVELS or not all(isinstance(frame, bool) for frame in listed):
            raise ConfigError(
                f"vae.temperal_downsample must say true or false of {levels - 1} levels, found {describe(frames)}"
            )
        channels = whole_number(settings, "z_dim", 16)
        for name in ("latents_mean", "latents_std"):
            values = settings.get(name)
            if values is not None and (not isinstance(values, (list, tuple)) or len(values) != channels):
                raise ConfigError(
                    f"vae.{name} must list {count(channels, 'number')}, one a channel, found {describe(values)}"
                )
        return Shape(channels, 2 ** (levels - 1))

    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return input_channels, which are those of both sides."""
        channels = settings.get("input_channels", 3)
        return channels, channels

    def prepare(self, vae: nn.Module) -> nn.Module:
        """Turn it into a network of images."""
        from coda_deploy.families.frame import to_frames

        to_frames(vae, self.blocks())
        return vae

    def packing(self, vae: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """Return what the pixels pass before the encoder, and the images after the decoder; None for nothing."""
        return None

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Take the posterior's mode."""
        whole, packing = cast(Any, vae), self.packing(vae)
        moments = whole.quant_conv(whole.encoder(pixels if packing is None else packing[0](pixels)))
        return cast("Tensor", moments[:, : whole.config.z_dim])

    def decode(self, vae: nn.Module, latent: Tensor) -> Tensor:
        """Decode, leaving what is out of [-1, 1] to whoever makes pixels of it."""
        whole, packing = cast(Any, vae), self.packing(vae)
        images = whole.decoder(whole.post_quant_conv(latent))
        return cast("Tensor", images if packing is None else packing[1](images))

    def parts(self, vae: nn.Module) -> VaeParts:
        """Fold as for an AutoencoderKL; with patches of pixels at the other ends where there are some."""
        from coda_deploy.families.frame import FrameNorm
        from coda_export.folding.vae import Kept, VaeParts, in_sequence, mean_of

        whole, packing = cast(Any, vae), self.packing(vae)
        encoder = whole.encoder
        encoder.conv_out = mean_of(encoder.conv_out, whole.quant_conv)
        steps = {"post_quant_conv": whole.post_quant_conv, "decoder": whole.decoder}
        last, kept = "conv_out", Kept(_LAST, norms=(FrameNorm,))
        inside = Kept(tuple(f"decoder.{name}" for name in _LAST), norms=(FrameNorm,))
        if packing is not None:
            encoder = in_sequence(pack=packing[0], encoder=encoder)
            last, kept = "encoder.conv_out", Kept(tuple(f"encoder.{name}" for name in _LAST), norms=(FrameNorm,))
            steps["unpack"] = packing[1]
        return VaeParts(encoder, in_sequence(**steps), last, "post_quant_conv", kept, inside)

    def basis_ends(self, vae: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """Return the quant convolutions."""
        return cast(Any, vae).quant_conv, cast(Any, vae).post_quant_conv


class AutoencoderKLWan(AutoencoderKLQwenImage):
    """Wan 2.1's is Qwen-Image's network; Wan 2.2's has patches of pixels and residuals around its changes of size."""

    class_name = "AutoencoderKLWan"
    models = "Wan 2.1 and 2.2, one frame"

    def blocks(self) -> VideoBlocks:
        """Import the classes that are replaced."""
        from diffusers.models.autoencoders import autoencoder_kl_wan as network

        from coda_deploy.families.frame import VideoBlocks

        return VideoBlocks(
            network.WanCausalConv3d,
            network.WanRMS_norm,
            network.WanResample,
            network.WanAttentionBlock,
            network.AvgDown3D,
            network.DupUp3D,
        )

    def shape(self, settings: Settings) -> Shape:
        """Count levels and patches."""
        shape = super().shape(settings)
        if settings.get("decoder_base_dim") is not None:
            whole_number(settings, "decoder_base_dim")
        return Shape(shape.channels, shape.downsample * self._patch(settings))

    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return the channels before they are packed into patches; what does not divide is told as it is."""
        area = self._patch(settings) ** 2
        found = (settings.get("in_channels", 3), settings.get("out_channels", 3))
        taken, given = (c // area if isinstance(c, int) and is_int(c) and c % area == 0 else c for c in found)
        return taken, given

    def packing(self, vae: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """Return what turns patches of pixels into channels, and back."""
        from coda_deploy.families.frame import FromPatches, ToPatches

        patch = self._patch(cast(Any, vae).config)
        return None if patch == 1 else (ToPatches(patch), FromPatches(patch))

    def _patch(self, settings: Settings) -> int:
        return 1 if settings.get("patch_size") is None else whole_number(settings, "patch_size", limit=64)
