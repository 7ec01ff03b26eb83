"""All families, by the class that config.json names, and what is refused with a reason of its own."""

from __future__ import annotations

from coda_deploy.errors import ConfigError
from coda_deploy.families.autoencoder_dc import AutoencoderDC
from coda_deploy.families.autoencoder_kl import AsymmetricAutoencoderKL, AutoencoderKL
from coda_deploy.families.autoencoder_kl_flux2 import AutoencoderKLFlux2
from coda_deploy.families.autoencoder_kl_hunyuanimage import AutoencoderKLHunyuanImage
from coda_deploy.families.autoencoder_kl_wan import AutoencoderKLQwenImage, AutoencoderKLWan
from coda_deploy.families.autoencoder_tiny import AutoencoderTiny
from coda_deploy.families.base import CLASS, Family, Settings
from coda_deploy.families.user_module import PROTOCOL, UserModule, is_user_module

USER_MODULE = UserModule()
FAMILIES: dict[str, Family] = {
    family.class_name: family
    for family in (
        AutoencoderKL(),
        AutoencoderKLFlux2(),
        AutoencoderTiny(),
        AutoencoderDC(),
        AsymmetricAutoencoderKL(),
        AutoencoderKLHunyuanImage(),
        AutoencoderKLQwenImage(),
        AutoencoderKLWan(),
        USER_MODULE,
    )
}
"""In the order of the table in docs/training.md."""

DEFAULT = AutoencoderKL.class_name
"""The class of a configuration that names none: those of before there were others."""

_VIDEO = (
    "it is a VAE of video that has no network for a single frame; of those AutoencoderKLWan and AutoencoderKLQwenImage "
    "are taken, with one frame"
)
REFUSED: dict[str, str] = {
    "VQModel": (
        "it is discrete already: its own codes are the tokens. Take the continuous VAE of the same model, or train one "
        "with coda train-vae"
    ),
    "ConsistencyDecoderVAE": (
        "its decoder draws noise and denoises it in steps, so that equal tokens would give different images; its "
        "latent is SD 1.5's, whose AutoencoderKL decodes it"
    ),
    **dict.fromkeys(
        (
            "AutoencoderKLAllegro",
            "AutoencoderKLCogVideoX",
            "AutoencoderKLCosmos",
            "AutoencoderKLHunyuanVideo",
            "AutoencoderKLHunyuanVideo15",
            "AutoencoderKLLTXVideo",
            "AutoencoderKLLTX2Video",
            "AutoencoderKLMagvit",
            "AutoencoderKLMochi",
            "AutoencoderKLTemporalDecoder",
        ),
        _VIDEO,
    ),
}
"""Classes that are known and taken by no family, with the reason and the way out."""


def family_of(settings: Settings) -> Family:
    """Return the family of a VAE's configuration. Raises ``ConfigError`` for a class that has none."""
    return named(settings.get(CLASS, DEFAULT), "the configuration's vae")


def family_of_module(vae: object) -> Family:
    """Return the family of a VAE: by its class's name, or by what it offers. Raises ``ConfigError`` for another."""
    name = type(vae).__name__
    if name not in FAMILIES and is_user_module(vae):
        return USER_MODULE
    return named(name, "vae")


def named(name: object, what: str) -> Family:
    """Return the family of a class. Raises ``ConfigError``, which says of ``what``, with the list and the protocol."""
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is not None:
        return family
    if reason := REFUSED.get(str(name)):
        raise ConfigError(f"{what} is a {name}, which cannot become a tokenizer: {reason}")
    known = [family for family in FAMILIES if family != USER_MODULE.class_name]
    raise ConfigError(
        f"{what} is a {name}, expected one of {', '.join(known)}, or {PROTOCOL}: wrap it in one (docs/training.md has "
        "one of twenty lines)"
    )
