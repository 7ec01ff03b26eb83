"""DISTS: how different two images look, where another sample of the same texture counts little (arXiv 2004.07728)."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy.errors import WeightsError
from coda_deploy.perception.lpips import TRUNKS
from coda_deploy.perception.weights import find_weights
from coda_deploy.tokenizer.storage import check_weights, read_state
from coda_deploy.weights.published import VGG16
from coda_deploy.weights.store import command_for, is_stored, path_of, read_stored

# VGG-16's convolutions by stage; its max pools are replaced by averages of squares.
_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_CHANNELS = (3, 64, 128, 256, 512, 512)
_SMALL = 1e-6


class Dists(nn.Module):
    """The distance between two images; frozen, always in evaluation, and absent from state dicts.

    As the package dists-pytorch computes it, from its weights, over images of any size as they are.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None, *, option: str = "lpips_weights") -> None:
        """Load VGG-16's ``weights``, a file as `coda_deploy.perception.Lpips` takes it, and DISTS' own.

        Raises ``WeightsError`` where either is missing, damaged or another network's.
        """
        super().__init__()
        if not is_stored("dists"):
            raise WeightsError(
                f"the weights of DISTS are missing: {path_of('dists')} is not there; run `{command_for('dists')}`, "
                "which fetches them"
            )
        own = read_stored("dists")
        trunk = TRUNKS["vgg"]
        path = find_weights(
            weights,
            what="VGG-16 for DISTS",
            file=trunk.file,
            hub=trunk.hub,
            url=trunk.url,
            option=option,
            stored=trunk.stored,
        )
        found = read_state(path)
        expected = {f"features.{index}.weight": torch.empty(shape, device="meta") for index, shape in VGG16.items()}
        expected |= {f"features.{index}.bias": torch.empty(shape[0], device="meta") for index, shape in VGG16.items()}
        found = {name: tensor for name, tensor in found.items() if name in expected}
        check_weights(found, expected, str(path))
        window = np.hanning(5)[1:-1]
        tensors = {
            "mean": torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
            "std": torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
            "window": torch.from_numpy(np.outer(window, window) / window.sum() ** 2).float()[None, None],
            "share": torch.cat([own["alpha"], own["beta"]]).flatten(1) / (own["alpha"].sum() + own["beta"].sum()),
            **{name.replace(".", "_"): tensor.float() for name, tensor in found.items()},
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute distances float32 [B] of images float [B, 3, H, W] in [0, 1]; 0 for equal images."""
        ours, theirs = self._maps(a), self._maps(b)
        alike = torch.zeros(len(a), device=a.device)
        shares = self.get_buffer("share").split(_CHANNELS, 1)
        for (texture, structure), x, y in zip(shares, ours, theirs, strict=True):
            x_mean, y_mean = (of.mean((2, 3)) for of in (x, y))
            x_spread, y_spread = (of.var((2, 3), correction=0) for of in (x, y))
            together = (x * y).mean((2, 3)) - x_mean * y_mean
            means = (2 * x_mean * y_mean + _SMALL) / (x_mean**2 + y_mean**2 + _SMALL)
            spreads = (2 * together + _SMALL) / (x_spread + y_spread + _SMALL)
            alike = alike + (texture * means + structure * spreads).sum(1)
        return 1 - alike

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Return the images and the five stages' outputs."""
        maps = [images]
        x = (images - self.get_buffer("mean")) / self.get_buffer("std")
        for stage, layers in enumerate(_STAGES):
            if stage:
                x = self._pool(x)
            for layer in layers:
                weight, bias = (self.get_buffer(f"features_{layer}_{kind}") for kind in ("weight", "bias"))
                x = F.conv2d(x, weight, bias, padding=1).relu()
            maps.append(x)
        return maps

    def _pool(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        window = self.get_buffer("window").expand(channels, 1, -1, -1)
        return (F.conv2d(x**2, window, stride=2, padding=1, groups=channels) + 1e-12).sqrt()
