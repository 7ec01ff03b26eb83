"""The discriminator: small heads that judge each patch from frozen features, as in StyleGAN-T (arXiv 2301.09515)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from coda_deploy import distributed
from coda_deploy.perception.dino import CHANNELS, LEVELS


class GlobalBatchNorm(nn.Module):
    """Batch normalisation over the images of all processes, in float32.

    It keeps no running statistics, since the discriminator is only used while it is trained, and uses the batch's in
    evaluation too. PyTorch's SyncBatchNorm does the same on GPUs and refuses a CPU.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, L] to float32 [B, C, L]. Every process must hold as many images as the others."""
        x = x.float()
        x = x - distributed.mean(x.mean((0, 2))).unsqueeze(-1)
        variance = distributed.mean(x.square().mean((0, 2)))
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.unsqueeze(-1) + self.bias.unsqueeze(-1)


class _Conv(nn.Conv1d):
    """A convolution of the same length around a ring, its weight divided by its largest singular value."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel)
        nn.init.trunc_normal_(self.weight, std=0.02)
        assert self.bias is not None  # noqa: S101 (Conv1d may have none)
        nn.init.zeros_(self.bias)
        # After the weight is set: the first guess of its singular vectors is made from it.
        spectral_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        # A GPU's autocast would round the norm, which is made of matrix-vector products.
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight
        reach = self.kernel_size[0] // 2
        return F.conv1d(F.pad(x, (reach, reach), mode="circular"), weight, self.bias)


class _Head(nn.Module):
    """[B, C, N] -> one judgement per patch [B, N]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(_Conv(channels, channels, 1), GlobalBatchNorm(channels), nn.LeakyReLU(0.2))
        self.mix = nn.Sequential(_Conv(channels, channels, 9), GlobalBatchNorm(channels), nn.LeakyReLU(0.2))
        self.judge = _Conv(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        # Divided, so that the sum varies as much as its parts.
        x = (x + self.mix(x)) / math.sqrt(2)
        judged: Tensor = self.judge(x)
        return judged.squeeze(1)


class Discriminator(nn.Module):
    """One head for each depth of ``DinoFeatures``, which stays outside: it is frozen, and shared by no checkpoint.

    In training every forward pass does one step of each spectral norm's power iteration, which changes buffers in
    place; they belong to the state dict, and a run that is resumed from it goes on with the same numbers.
    """

    def __init__(self, channels: int = CHANNELS, levels: int = LEVELS) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_Head(channels) for _ in range(levels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Turn ``levels`` maps [B, C, N] into logits float32 [B, levels * N], high for real images."""
        return torch.cat([head(x) for head, x in zip(self.heads, features, strict=True)], 1).float()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return what the discriminator minimises, from its logits for real and for reconstructed images: a scalar."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Return what the tokenizer minimises, from the logits of its reconstructions: a scalar."""
    return -fake.mean()
