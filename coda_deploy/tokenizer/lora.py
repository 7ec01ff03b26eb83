"""LoRA on the VAE's convolutions, through peft."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import Conv2d as LoraConv2d
from torch import Tensor, nn

from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.config import LoraConfig

ADAPTER = "default"


def target_names(vae: nn.Module, config: LoraConfig) -> list[str]:
    """Return the dotted names of the Conv2d layers of encoder and decoder that ``config.targets`` match."""
    return [
        name
        for name, module in vae.named_modules()
        if isinstance(module, nn.Conv2d)
        and name.startswith(("encoder.", "decoder."))
        and any(target in name for target in config.targets)
    ]


def add_lora(vae: AutoencoderKL, config: LoraConfig) -> None:
    """Wrap the targeted convolutions in place; ``up`` starts at zero, so that nothing changes yet.

    Raises ``ConfigError`` when the targets match no convolution.
    """
    names = target_names(vae, config)
    if not names:
        raise ConfigError(f"LoRA targets {list(config.targets)} match no Conv2d of the VAE's encoder or decoder")
    # alpha = rank: the low-rank branch is added with weight 1, as in the paper.
    inject_adapter_in_model(PeftLoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=names), vae)


def lora_layers(module: nn.Module) -> dict[str, LoraConv2d]:
    """Return the wrapped convolutions under ``module``, by dotted name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraConv2d)}


def branch(layer: LoraConv2d) -> tuple[Tensor, Tensor]:
    """Return ``down`` [rank, in, k, k] and ``up`` [out, rank, 1, 1] of one wrapped convolution."""
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return cast(Tensor, down.weight), cast(Tensor, up.weight)


@torch.no_grad()
def merge_lora(vae: nn.Module) -> None:
    """Replace every wrapped convolution by one whose weight is ``conv + up . down``, in place; exact up to rounding."""
    for name, layer in lora_layers(vae).items():
        conv = layer.get_base_layer()
        down, up = branch(layer)
        # float64, so that the merged weight is the correctly rounded one.
        delta = torch.einsum("or,rikl->oikl", up.double().flatten(1), down.double())
        conv.weight.copy_((conv.weight.double() + delta).to(conv.weight.dtype))
        parent, _, leaf = name.rpartition(".")
        setattr(vae.get_submodule(parent), leaf, conv)
