"""LoRA on the VAE's convolutions and projections, through peft."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import Conv2d as LoraConv2d
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from coda_deploy.errors import ConfigError
from coda_deploy.families import Family
from coda_deploy.tokenizer.config import LoraConfig

ADAPTER = "default"
_WRAPPED = (LoraConv2d, LoraLinear)


def target_names(vae: nn.Module, config: LoraConfig, family: Family) -> list[str]:
    """Return the dotted names of the layers that ``config.targets`` match, or the family's where it has none.

    Those are Conv2d layers without groups, and nn.Linear where the family allows it, under the family's roots.
    """
    kinds = (nn.Conv2d, nn.Linear) if family.lora_linear else (nn.Conv2d,)
    targets = config.targets or family.lora_targets
    return [
        name
        for name, module in vae.named_modules()
        if isinstance(module, kinds)
        and getattr(module, "groups", 1) == 1
        and name.startswith(family.lora_roots)
        and any(target in name for target in targets)
    ]


def add_lora(vae: nn.Module, config: LoraConfig, family: Family) -> None:
    """Wrap the targeted layers in place; ``up`` starts at zero, so that nothing changes yet.

    Raises ``ConfigError`` when the targets match no layer.
    """
    names = target_names(vae, config, family)
    if not names:
        kinds = "Conv2d or Linear" if family.lora_linear else "Conv2d"
        place = "VAE" if family.lora_roots == ("",) else "VAE's encoder or decoder"
        targets = list(config.targets or family.lora_targets)
        raise ConfigError(f"LoRA targets {targets} match no {kinds} of the {place}")
    # alpha = rank: the low-rank branch is added with weight 1, as in the paper. A pattern of whole names, since peft
    # takes a name for the end of longer ones.
    pattern = "|".join(map(re.escape, names))
    inject_adapter_in_model(PeftLoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=pattern), vae)


def lora_layers(module: nn.Module) -> dict[str, LoraConv2d]:
    """Return the wrapped layers under ``module``, by dotted name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _WRAPPED)}


def branch(layer: LoraConv2d) -> tuple[Tensor, Tensor]:
    """Return ``down`` [rank, in, k, k] and ``up`` [out, rank, 1, 1] of a convolution, of a projection without the k."""
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return cast(Tensor, down.weight), cast(Tensor, up.weight)


@contextmanager
def without_lora(module: nn.Module) -> Iterator[None]:
    """Compute with the layers as they were before LoRA; where it was merged, they stay as they are."""
    layers = lora_layers(module).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merge_lora(vae: nn.Module) -> None:
    """Replace every wrapped layer by one whose weight is ``conv + up . down``, in place; exact up to rounding."""
    for name, layer in lora_layers(vae).items():
        conv = layer.get_base_layer()
        down, up = branch(layer)
        # float64, so that the merged weight is the correctly rounded one.
        delta = torch.einsum("or,ri...->oi...", up.double().flatten(1), down.double())
        conv.weight.copy_((conv.weight.double() + delta).to(conv.weight.dtype))
        parent, _, leaf = name.rpartition(".")
        setattr(vae.get_submodule(parent), leaf, conv)
