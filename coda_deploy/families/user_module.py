"""A user's own VAE: any torch.nn.Module that encodes, decodes, and says what its latent looks like.

A tokenizer folder keeps its weights and the name of its class, to tell people what to give. The name is never imported:
a file would then decide which code runs. Who loads the folder makes the module and gives it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.errors import ConfigError, ModuleNeededError
from coda_deploy.families.base import CLASS, Family, Settings, Shape
from coda_deploy.families.settings import whole_number
from coda_runtime.io.json_fields import describe, is_int

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_export.folding.vae import VaeParts

PROTOCOL = (
    "a torch.nn.Module with encode(x) -> latent [B, C, H / f, W / f] and decode(latent) -> x, x float [B, 3, H, W] in "
    "[-1, 1], and the whole numbers latent_channels (C) and downsample (f)"
)


class UserModule(Family):
    """Nothing is known of its inside: scale and shift stay outside, and LoRA may be anywhere."""

    class_name = "UserModule"
    models = "a torch.nn.Module of your own"
    lora_targets = ("",)
    lora_linear = True
    lora_roots = ("",)
    folds = "doublings of diffusers' blocks, and of an nn.Upsample before its convolution in an nn.Sequential"
    cannot: ClassVar = {"equalise": "its last and first layers are not known"}

    def shape(self, settings: Settings) -> Shape:
        """Read what the module said of itself."""
        if not isinstance(settings.get("module"), str):
            raise ConfigError(f"vae.module must name the module's class, found {describe(settings.get('module'))}")
        return Shape(whole_number(settings, "latent_channels"), whole_number(settings, "downsample"))

    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return 3 and 3: the protocol's."""
        return 3, 3

    def make(self, settings: Settings) -> nn.Module:
        """Raise ``ModuleNeededError``: only its author can make it."""
        name = settings.get("module")
        raise ModuleNeededError(
            f"this tokenizer was made of a module of its author's own, {name}, whose code is not in the folder and is "
            "never imported by its name: make one and give it, CodaTokenizer.from_pretrained(FOLDER, vae=MODULE); on "
            "the command line python:MODULE:FUNCTION:FOLDER calls the function that makes it, and coda train --resume "
            "takes --vae python:MODULE:FUNCTION again"
        )

    def settings(self, vae: nn.Module) -> dict[str, Any]:
        """Return the class's name and what the module says of itself."""
        kind = type(vae)
        return {
            CLASS: self.class_name,
            "module": f"{kind.__module__}.{kind.__qualname__}",
            "latent_channels": cast(Any, vae).latent_channels,
            "downsample": cast(Any, vae).downsample,
        }

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Call its encode."""
        return cast("Tensor", cast(Any, vae).encode(pixels))

    def decode(self, vae: nn.Module, latent: Tensor) -> Tensor:
        """Call its decode."""
        return cast("Tensor", cast(Any, vae).decode(latent))

    def parts(self, vae: nn.Module) -> VaeParts:
        """Make a module of each of its two methods; what it names in ``keep_float32`` keeps float32."""
        import copy

        from coda_deploy.families.calls import Decode, Encode
        from coda_export.folding.vae import Kept, VaeParts

        named = tuple(f"vae.{name}" for name in getattr(vae, "keep_float32", ()))
        return VaeParts(Encode(copy.deepcopy(vae)), Decode(vae), encoder_kept=Kept(named), decoder_kept=Kept(named))


def is_user_module(vae: object) -> bool:
    """Return whether an object offers what ``PROTOCOL`` says."""
    return all(callable(getattr(vae, name, None)) for name in ("encode", "decode")) and all(
        is_int(getattr(vae, name, None)) for name in ("latent_channels", "downsample")
    )
