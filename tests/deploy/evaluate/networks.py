"""An Inception with random weights whose features are alive: no two images have the same, and none is constant."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def inception_state(images: Tensor) -> dict[str, Tensor]:
    """A state dict for torch-fidelity's Inception; its norms are those of ``images``, uint8 [B, 3, H, W]."""
    from torch_fidelity import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Leaves the weights random: the constructor insists on a file."""

    empty = BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network = Blank("blank", ["2048"], feature_extractor_weights_path=empty)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = math.prod(module.weight.shape[1:])
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * math.sqrt(2 / fan))
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
    network(images)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
