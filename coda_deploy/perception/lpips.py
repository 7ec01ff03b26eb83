"""LPIPS: how different two images look (arXiv 1801.03924), over VGG-16 or AlexNet, through the ``lpips`` package."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from coda_deploy.perception.weights import find_weights, freeze
from coda_deploy.tokenizer.storage import check_weights, read_state
from coda_runtime.errors import MissingDependencyError

Net = Literal["vgg", "alex"]


@dataclass(frozen=True)
class Trunk:
    """The network under LPIPS: its name, its file in PyTorch's cache, on the hub, and in `coda weights`' cache."""

    name: str
    file: str
    hub: tuple[str, str] | None
    stored: str

    @property
    def url(self) -> str:
        """Where PyTorch publishes the file."""
        return f"https://download.pytorch.org/models/{self.file}"


TRUNKS: dict[Net, Trunk] = {
    "vgg": Trunk("VGG-16", "vgg16-397923af.pth", ("timm/vgg16.tv_in1k", "model.safetensors"), "vgg16"),
    "alex": Trunk("AlexNet", "alexnet-owt-7be5be79.pth", None, "alexnet"),
}


class Lpips(nn.Module):
    """The learned distance between two images; frozen, always in evaluation, and absent from state dicts."""

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        net: Net = "vgg",
        option: str = "lpips_weights",
        extra: str = "train",
    ) -> None:
        """Build the network; its linear weights come with the ``lpips`` package, the others from ``find_weights``.

        Args:
            weights: a state dict of ``net`` trained on ImageNet, keys ``features.N.weight``; None looks in the caches
                and downloads it.
            net: "vgg" is VGG-16, which losses use; "alex" is AlexNet, which other papers report.
            option: how the user names ``weights``, for messages.
            extra: the extra of coda-deploy that a missing package is asked for by.

        Raises:
            MissingDependencyError: ``lpips`` or torchvision is not installed.
            WeightsError: the network's weights are missing, damaged, or another network's.
        """
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise MissingDependencyError(
                "LPIPS needs the packages lpips and torchvision", "lpips", "torchvision", extra=extra
            ) from error
        # Before the network is built: the likely failure comes first.
        trunk = TRUNKS[net]
        path = find_weights(
            weights,
            what=f"{trunk.name} for LPIPS",
            file=trunk.file,
            hub=trunk.hub,
            url=trunk.url,
            option=option,
            stored=trunk.stored,
        )
        # On no device: VGG-16 would otherwise draw 138 million random weights first, most for layers that go unused.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision by names from before 0.13
            network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        own = network.state_dict()
        keys = {f"features.{key.split('.', 2)[2]}": key for key in own if key.startswith("net.")}
        found = {name: tensor for name, tensor in read_state(path).items() if name in keys}
        check_weights(found, {name: own[key] for name, key in keys.items()}, str(path))
        linear = read_state(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
        state = {keys[name]: tensor.float() for name, tensor in found.items()} | linear
        network.load_state_dict(state, strict=False, assign=True)  # not strict: `lins` names the same layers once more
        freeze(network)
        self.net = network
        super().train(False)

    def train(self, mode: bool = True) -> Lpips:
        """Change nothing: it is always in evaluation mode."""
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute distances float32 [B] of images float [B, 3, H, W] in [-1, 1], sides at least 16 (vgg) or 31 (alex).

        Equal images have the distance 0.
        """
        distance: Tensor = self.net(a, b)
        return distance.flatten().float()
