"""What the rest of the package asks of a family of continuous VAEs; each file beside this one answers for one class.

Its configuration is read without PyTorch, as `TokenizerConfig` is: a family imports PyTorch, diffusers and the exporter
inside the functions that need them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from coda_deploy.errors import ConfigError
from coda_deploy.families.settings import whole_number
from coda_runtime.format.precision import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_export.folding.vae import VaeParts

Settings = Mapping[str, Any]
CLASS = "_class_name"
"""The key of a VAE's configuration that names its class, as diffusers spells it."""


@dataclass(frozen=True)
class Shape:
    """What a VAE makes of images [B, 3, H, W]: a latent [B, ``channels``, H / ``downsample``, W / ``downsample``]."""

    channels: int
    downsample: int


@dataclass(frozen=True)
class Statistics:
    """The latent that generators see is ``scale * (mean - shift)``, numbers or one a channel; ``source`` says whose."""

    scale: float | tuple[float, ...] = 1.0
    shift: float | tuple[float, ...] = 0.0
    source: str = "none in its configuration"


class Family(ABC):
    """One class of VAE. The class attributes are a row of the table in docs/training.md, and what LoRA adapts."""

    class_name: ClassVar[str]
    """As config.json names it."""
    models: ClassVar[str]
    """Published models that have one."""
    lora_targets: ClassVar[tuple[str, ...]] = ("conv1", "conv2")
    """Parts of names of the layers that LoRA adapts unless the user names others."""
    lora_linear: ClassVar[bool] = False
    """Whether LoRA may adapt nn.Linear layers beside convolutions."""
    lora_roots: ClassVar[tuple[str, ...]] = ("encoder.", "decoder.")
    """What the names of adapted layers begin with."""
    folds: ClassVar[str]
    """What an export folds, for the table."""
    left_behind: ClassVar[str] = ""
    """What of the VAE a tokenizer does not take along, for the table."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """What the family cannot do, one of ``ABILITIES``, and why."""
    latent_path: ClassVar[str | None] = None
    """The module whose output becomes the latent by folding scale and shift into it; None where nothing takes them."""

    @abstractmethod
    def shape(self, settings: Settings) -> Shape:
        """Read a configuration. Raises ``ConfigError`` for numbers that are none, or do not fit together."""

    @abstractmethod
    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return the channels of the images that it takes and gives."""

    @abstractmethod
    def make(self, settings: Settings) -> nn.Module:
        """Make the VAE of a tokenizer's configuration, with random weights, as `prepare` leaves one."""

    @abstractmethod
    def settings(self, vae: nn.Module) -> dict[str, Any]:
        """Return what `make` needs to make a VAE like this one, as plain data with ``CLASS``."""

    def statistics(self, vae: nn.Module) -> Statistics:
        """Return what the VAE's configuration or weights say of its latent; it has not been prepared."""
        return Statistics()

    def prepare(self, vae: nn.Module) -> nn.Module:
        """Leave behind what a tokenizer has no use for, in place."""
        return vae

    @abstractmethod
    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Turn pixels [B, 3, H, W] in [-1, 1] into the mean [B, C, h, w], the same for the same image."""

    @abstractmethod
    def decode(self, vae: nn.Module, latent: Tensor) -> Tensor:
        """Turn a mean [B, C, h, w] into images [B, 3, H, W] in about [-1, 1]."""

    @abstractmethod
    def parts(self, vae: nn.Module) -> VaeParts:
        """Take a VAE without LoRA, which may be changed, apart into what the exporter folds."""

    def basis_ends(self, vae: nn.Module) -> tuple[nn.Module, nn.Module] | None:
        """Return the convolutions that write the mean and read the latent, where a change of basis fits into both."""
        return None

    def check(self, settings: Settings) -> Shape:
        """Return the shape. Raises ``ConfigError`` as `shape` does, and for other images than of three channels."""
        shape = self.shape(settings)
        taken, given = self.image_channels(settings)
        if (taken, given) != (3, 3):
            raise ConfigError(
                f"the VAE takes images of {taken} channels and gives {given}, expected 3 and 3: RGB. A tokenizer is "
                "made of a VAE of colour images; train one with coda train-vae, or wrap yours in a module that converts"
            )
        return shape


# fp16 is for who asks for it: many VAEs overflow in it.
ABILITIES = (
    *(name for name, known in PRECISIONS.items() if known.min_opset > 20 or known.is_integer),
    "TensorRT-RTX",
    "equalise",
)
"""What a family may be unable to do."""


class DiffusersFamily(Family):
    """A class of diffusers: its configuration is that of the class, its weights those of its state dict."""

    def vae_class(self) -> Any:
        """Import the class."""
        import diffusers

        return getattr(diffusers, self.class_name)

    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return in_channels and out_channels."""
        return settings.get("in_channels", 3), settings.get("out_channels", 3)

    def make(self, settings: Settings) -> nn.Module:
        """Call the class with its settings."""
        known = {key: value for key, value in settings.items() if not key.startswith("_")}
        return self.prepare(cast("nn.Module", self.vae_class()(**known)))

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Take the posterior's mode; a class without a posterior has its own."""
        return cast("Tensor", cast(Any, vae).encode(pixels).latent_dist.mode())

    def decode(self, vae: nn.Module, latent: Tensor) -> Tensor:
        """Decode."""
        return cast("Tensor", cast(Any, vae).decode(latent).sample)

    def settings(self, vae: nn.Module) -> dict[str, Any]:
        """Return the arguments of the class that its configuration holds."""
        from inspect import signature

        # Some classes write derived values into their configuration, which they do not take.
        taken = signature(type(vae).__init__).parameters
        config = cast(Mapping[str, Any], vae.config)
        return {CLASS: self.class_name, **{key: value for key, value in config.items() if key in taken}}

    def statistics(self, vae: nn.Module) -> Statistics:
        """Read scaling_factor, shift_factor, latents_mean and latents_std, as diffusers' pipelines apply them."""
        return read_statistics(cast(Mapping[str, Any], vae.config))


def read_statistics(config: Mapping[str, Any]) -> Statistics:
    """Combine what a diffusers configuration says: ``(mean - latents_mean) * scaling_factor / latents_std``."""
    factor = float(config.get("scaling_factor") or 1.0)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        names = ["latents_mean", "latents_std", *(["scaling_factor"] if factor != 1.0 else [])]
        return Statistics(tuple(factor / float(s) for s in std), tuple(float(m) for m in mean), ", ".join(names))
    names = [name for name in ("scaling_factor", "shift_factor") if config.get(name)]
    return Statistics(factor, float(config.get("shift_factor") or 0.0), ", ".join(names) or Statistics.source)


def latent_channels(settings: Settings, name: str = "latent_channels") -> int:
    """Return the channels that a configuration names so. Raises ``ConfigError``."""
    return whole_number(settings, name)
