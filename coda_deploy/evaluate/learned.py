"""How alike two batches of images look to published networks, image by image: LPIPS and DISTS."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coda_deploy.evaluate.devices import to_tensor
from coda_deploy.evaluate.metrics import Pixels
from coda_deploy.perception import Dists, Lpips
from coda_deploy.perception.lpips import Net
from coda_deploy.tokenizer.pixels import from_pixels

Weights = str | os.PathLike[str] | None


class Learned:
    """A network's distance for uint8 images."""

    def __init__(self, network: nn.Module, device: torch.device, unit: Callable[[Tensor], Tensor]) -> None:
        """``network`` compares two batches; ``unit`` turns uint8 [B, H, W, 3] into what it takes."""
        self.device = device
        self._network, self._unit = network.to(device), unit

    def __call__(self, a: Pixels, b: Pixels) -> NDArray[np.float64]:
        """Return the distance of each pair of uint8 [B, H, W, 3], 0 for identical ones: float64 [B]."""
        with torch.inference_mode():
            found: Tensor = self._network(*(self._unit(to_tensor(images, self.device)) for images in (a, b)))
        return np.asarray(found.double().cpu().numpy())


def lpips(weights: Weights, device: torch.device, net: Net = "vgg") -> Learned:
    """Load LPIPS (arXiv 1801.03924) over ``net`` from ``weights``, a file; None looks where `Lpips` does.

    Raises ``MissingDependencyError``, ``WeightsError``.
    """
    option = {"vgg": "--lpips-weights", "alex": "--lpips-alex-weights"}[net]
    return Learned(Lpips(weights, net=net, option=option, extra="eval"), device, from_pixels)


def dists(weights: Weights, device: torch.device) -> Learned:
    """Load DISTS (arXiv 2004.07728); ``weights`` is a file of VGG-16's, None looks where `Dists` does.

    Raises ``WeightsError``.
    """
    return Learned(Dists(weights, option="--lpips-weights"), device, _from_zero_to_one)


def _from_zero_to_one(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255
