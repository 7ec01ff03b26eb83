"""LDM autoencoders, in one file as they are published: MAR's KL-16, VA-VAE, and those of latent diffusion.

They are AutoencoderKL under other names. Nothing but the tensors is in such a file, so the configuration is read off
their shapes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from coda_deploy.errors import WeightsError
from coda_deploy.official.keys import as_ldm, ldm_name
from coda_deploy.tokenizer.storage import check_weights, read_state
from coda_deploy.tokenizer.variants import VARIANTS

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
_PREFIXES = ("first_stage_model.", "vae.", "module.", "")
# What only training needs: the losses' networks, averages, and VA-VAE's way to the features that it was aligned with.
_LEFT = re.compile(r"^(loss|model_ema|foundation_model|linear_proj|discriminator)\b")
_FIRST, _LAST = "encoder.conv_in.weight", "encoder.conv_out.weight"
_GROUPS = 32
"""LDM's normalisations have this many groups always; nothing of it shows in the shapes."""


def find_ldm(where: str | os.PathLike[str]) -> Path | None:
    """Return the file of an LDM autoencoder: ``where`` itself, or the one such file of a folder that is no model's."""
    path = Path(where)
    if path.is_file():
        return path
    if not path.is_dir() or any((path / name).exists() for name in ("config.json", "model_index.json", "vae")):
        return None
    found = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix in SUFFIXES]
    return found[0] if len(found) == 1 else None


def read_ldm(path: str | os.PathLike[str]) -> AutoencoderKL:
    """Read a .safetensors file, or a PyTorch checkpoint that holds tensors and no code, into an AutoencoderKL, float32.

    A whole latent diffusion model's checkpoint will do: its ``first_stage_model`` is taken. The latent's statistics are
    not in the file: ``scaling_factor`` is MAR's for a network of its shapes, and 1 otherwise.

    Raises ``WeightsError`` for a damaged file, for one that is no LDM autoencoder's, and for a missing, extra or
    misshapen key, naming it.
    """
    file = Path(path)
    found = _autoencoder(read_state(file, nested="state_dict"), file)
    settings = ldm_settings(found, file)
    known = VARIANTS["mar_v16384"]
    is_mar = all(_plain(known.vae[key]) == _plain(settings[key]) for key in settings)
    with torch.device("meta"):
        vae = AutoencoderKL(**settings, scaling_factor=float(known.latent_scale) if is_mar else 1.0)  # type: ignore[arg-type]
    own, levels = vae.state_dict(), len(settings["block_out_channels"])
    names = {key: ldm_name(key, levels) for key in own}
    check_weights(found, {names[key]: as_ldm(names[key], tensor) for key, tensor in own.items()}, str(file))
    weights = {key: found[name].float().reshape(own[key].shape) for key, name in names.items()}
    vae.load_state_dict(weights, assign=True)
    return vae.eval()


def has_statistics(vae: AutoencoderKL) -> bool:
    """Return whether the scale of a VAE that `read_ldm` read is known."""
    return bool(vae.config.scaling_factor != 1.0)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _autoencoder(found: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the autoencoder's tensors under LDM's names."""
    for prefix in _PREFIXES:
        if f"{prefix}{_FIRST}" in found:
            named = {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
            return {key: tensor for key, tensor in named.items() if not _LEFT.match(key)}
    raise WeightsError(
        f"{file} is no LDM autoencoder's: it has no {_FIRST!r}, first is {next(iter(found), 'nothing')!r}; give one, "
        "as MAR's kl16.safetensors is, or a folder that a diffusers VAE was saved in"
    )


def ldm_settings(found: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """Read the configuration of an AutoencoderKL off LDM's tensors. Raises ``WeightsError`` for what one cannot be."""
    levels = _count(found, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    blocks = _count(found, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")
    widths = tuple(len(found[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels))
    if not levels or _LAST not in found or any(width % _GROUPS for width in widths):
        raise WeightsError(
            f"{file} has {levels} levels of widths {list(widths)}, expected multiples of {_GROUPS}, the groups of "
            "LDM's normalisations: convert it to a diffusers AutoencoderKL, whose configuration says how many it has"
        )
    channels = len(found[_LAST]) // 2
    for name, expected in (("quant_conv.weight", 2 * channels), ("post_quant_conv.weight", channels)):
        size = tuple(found[name].shape[:2]) if name in found else (expected, expected)
        if size != (expected, expected):
            raise WeightsError(
                f"{file}: {name!r} maps {size[1]} channels to {size[0]}, expected {expected} to {expected}: of an "
                "autoencoder whose embed_dim is not its z_channels no AutoencoderKL can be made; fold it into a module "
                "of your own"
            )

    def attends(side: str, level: int) -> bool:
        return f"{side}.{level}.attn.0.norm.weight" in found

    down = tuple(f"{'Attn' * attends('encoder.down', level)}DownEncoderBlock2D" for level in range(levels))
    up = tuple(f"{'Attn' * attends('decoder.up', level)}UpDecoderBlock2D" for level in reversed(range(levels)))
    return {
        "in_channels": found[_FIRST].shape[1],
        "out_channels": len(found["decoder.conv_out.weight"]) if "decoder.conv_out.weight" in found else 3,
        "block_out_channels": widths,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": blocks,
        "latent_channels": channels,
        "norm_num_groups": _GROUPS,
        "act_fn": "silu",
        "use_quant_conv": "quant_conv.weight" in found,
        "use_post_quant_conv": "post_quant_conv.weight" in found,
    }


def _count(found: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(match[1]) for key in found if (match := re.fullmatch(pattern, key))]
    return 1 + max(numbers) if numbers else 0
