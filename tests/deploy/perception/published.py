"""Files as the published networks have them, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def random_like(shapes: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep activations alive through many layers; biases and norms far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator)
        if like.ndim > 1:
            state[name] = noise * (2 / like[0].numel()) ** 0.5
        else:
            state[name] = 0.3 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return state


def vgg_state() -> dict[str, Tensor]:
    """VGG-16's features, and one key of its classifier, which LPIPS does not use."""
    import torchvision

    with torch.device("meta"):
        shapes = torchvision.models.vgg16().features.state_dict(prefix="features.")
    return {**random_like(shapes), "classifier.6.bias": torch.zeros(1000)}


def write_dino(path: Path) -> None:
    import timm

    with torch.device("meta"):
        shapes = timm.create_model("vit_small_patch16_224.dino").state_dict()
    torch.save(random_like(shapes), path)


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth random images [count, 3, height, width] in [-1, 1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return fine.clamp(-1, 1)
