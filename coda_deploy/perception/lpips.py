"""LPIPS: how different two images look (arXiv 1801.03924), over VGG-16, through the ``lpips`` package."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from coda_deploy.perception.weights import find_weights, freeze
from coda_deploy.tokenizer.storage import check_weights, read_state
from coda_runtime.errors import MissingDependencyError

_FILE = "vgg16-397923af.pth"
_HUB = ("timm/vgg16.tv_in1k", "model.safetensors")
_URL = f"https://download.pytorch.org/models/{_FILE}"


class Lpips(nn.Module):
    """The learned distance between two images; frozen, always in evaluation, and absent from state dicts."""

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        option: str = "lpips_weights",
        extra: str = "train",
    ) -> None:
        """Build the network; its linear weights come with the ``lpips`` package, VGG-16's from ``find_weights``.

        Args:
            weights: a state dict of VGG-16 trained on ImageNet, keys ``features.N.weight``; None looks in the caches
                and downloads it.
            option: how the user names ``weights``, for messages.
            extra: the extra of coda-deploy that a missing package is asked for by.

        Raises:
            MissingDependencyError: ``lpips`` or torchvision is not installed.
            WeightsError: VGG-16's weights are missing, damaged, or another network's.
        """
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise MissingDependencyError(
                "LPIPS needs the packages lpips and torchvision", "lpips", "torchvision", extra=extra
            ) from error
        # Before the network is built: the likely failure comes first.
        path = find_weights(weights, what="VGG-16 for LPIPS", file=_FILE, hub=_HUB, url=_URL, option=option)
        # On no device: VGG-16 would otherwise draw 138 million random weights first, most for layers that go unused.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision by names from before 0.13
            net = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
        own = net.state_dict()
        trunk = {f"features.{key.split('.', 2)[2]}": key for key in own if key.startswith("net.")}
        found = {name: tensor for name, tensor in read_state(path).items() if name in trunk}
        check_weights(found, {name: own[key] for name, key in trunk.items()}, str(path))
        linear = read_state(Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth")
        state = {trunk[name]: tensor.float() for name, tensor in found.items()} | linear
        net.load_state_dict(state, strict=False, assign=True)  # not strict: `lins` names the same layers once more
        freeze(net)
        self.net = net
        super().train(False)

    def train(self, mode: bool = True) -> Lpips:
        """Changes nothing: it is always in evaluation."""
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [-1, 1], sides of at least 16 -> distances float32 [B], 0 for equal images."""
        distance: Tensor = self.net(a, b)
        return distance.flatten().float()
