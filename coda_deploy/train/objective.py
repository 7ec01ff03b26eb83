"""The image's part of the objective: L1, L2, LPIPS, and a discriminator whose weight balances the gradients."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy import distributed
from coda_deploy.perception.dino import SIDE
from coda_deploy.tokenizer.lora import branch, lora_layers
from coda_deploy.train.augment import AugmentDraw, augment, draw
from coda_deploy.train.discriminator import Discriminator, generator_loss, hinge_loss
from coda_deploy.train.learner import Learner
from coda_deploy.train.sections import ImageLossSection

MAX_ADAPTIVE = 1e4
Features = Callable[..., list[Tensor]]


class Critic(nn.Module):
    """Augmentation, frozen features and the trained heads, as one module that may be wrapped for many processes.

    ``features`` maps images [B, 3, H, W] in [-1, 1] and a ``top_left`` corner or None to the heads' input.
    """

    def __init__(self, features: nn.Module, heads: Discriminator) -> None:
        super().__init__()
        # In a tuple, so that frozen weights are neither parameters here nor part of the state.
        self._features = (features,)
        self.heads = heads

    def to_device(self, device: torch.device) -> None:
        """Move the frozen features too."""
        self.to(device)
        self.features.to(device)

    @property
    def features(self) -> nn.Module:
        """The frozen network, which is not a submodule."""
        return self._features[0]

    def logits(self, images: Tensor, view: View) -> Tensor:
        """Judge images [B, 3, H, W]: float32 [B, patches]."""
        seen = augment(images, view.draw(len(images)), view.blur)
        features: list[Tensor] = self.features(seen, view.corner(images.shape[-2], images.shape[-1]))
        logits: Tensor = self.heads(features)
        return logits

    def forward(self, real: Tensor, fake: Tensor, view: View) -> Tensor:
        """Compute the hinge loss, a scalar."""
        return hinge_loss(self.logits(real, view), self.logits(fake, view))


@dataclass(frozen=True)
class View:
    """How the discriminator looks at one batch; the same for real and reconstructed images, and on every process.

    Everything random follows from ``seed``; ``count`` images a process.
    """

    seed: int
    blur: float
    probability: float
    window: int = SIDE

    def draw(self, count: int) -> AugmentDraw:
        """Draw the augmentation of this process's ``count`` images."""
        world = distributed.world()
        numbers = draw(torch.Generator().manual_seed(self.seed), count * world, self.probability)
        return numbers.rows(distributed.rank(), world)

    def corner(self, height: int, width: int) -> tuple[int, int] | None:
        """Draw where to cut a window of the features' size, half of the time where it fits; None means to resize."""
        chance = random.Random(self.seed)
        if min(height, width) <= self.window or chance.random() < 0.5:
            return None
        return chance.randint(0, height - self.window), chance.randint(0, width - self.window)


class ImageTerms(NamedTuple):
    """Scalars: the weighted sum ``total`` to minimise, its part without the discriminator, and each term unweighted."""

    total: Tensor
    plain: Tensor
    terms: dict[str, Tensor]


class Objective:
    """Weighs the terms of `ImageLossSection`; ``lpips`` and ``critic`` may be None where their weight is 0."""

    def __init__(self, weights: ImageLossSection, lpips: nn.Module | None, critic: Critic | None) -> None:
        self.weights, self.lpips, self.critic = weights, lpips, critic

    def image_terms(
        self, images: Tensor, decoded: Tensor, last: Tensor | None, gan_weight: float, view: View
    ) -> ImageTerms:
        """Compare ``decoded`` with ``images``, both float [B, 3, H, W] in about [-1, 1].

        ``last`` is the weight at which the gradients' norms are compared; None compares them at the image.
        """
        decoded = decoded.float()
        terms = {"l1": F.l1_loss(decoded, images), "l2": F.mse_loss(decoded, images)}
        plain = self.weights.l1 * terms["l1"] + self.weights.l2 * terms["l2"]
        if self.lpips is not None:
            terms["lpips"] = self.lpips(images, decoded).float().mean()
            plain = plain + self.weights.lpips * terms["lpips"]
        if self.critic is None:
            return ImageTerms(plain, plain, terms)
        with frozen(self.critic):
            terms["gan"] = generator_loss(self.critic.logits(decoded, view))
        terms["adaptive"] = adaptive_weight(plain, terms["gan"], decoded if last is None else last)
        return ImageTerms(plain + gan_weight * terms["adaptive"] * terms["gan"], plain, terms)


def adaptive_weight(plain: Tensor, gan: Tensor, at: Tensor) -> Tensor:
    """Compute ``|d plain / d at| / |d gan / d at|``, without gradient, over all processes' images (2012.09841)."""
    norms = []
    for loss in (plain, gan):
        (gradient,) = torch.autograd.grad(loss, at, retain_graph=True)
        if at.is_leaf:  # a weight: its gradient is the mean of the processes'
            norms.append(distributed.mean_detached(gradient).norm())
        else:  # an image: each process has its own part of the gradient
            norms.append((distributed.mean_detached(gradient.square().sum()) / distributed.world()).sqrt())
    ratio: Tensor = norms[0] / (norms[1] + 1e-6)
    return ratio.clamp(0, MAX_ADAPTIVE).detach()


def last_lora_weight(model: Learner) -> Tensor | None:
    """Return ``up`` of the decoder's last LoRA layer in the order of computing.

    None without LoRA, and for a VAE of the user's own that has no ``decoder``.
    """
    decoder = getattr(model.vae, "decoder", None)
    layers = lora_layers(decoder) if isinstance(decoder, nn.Module) else {}
    named = [name for name in layers if name.startswith("up_blocks.")] or list(layers)
    return branch(layers[named[-1]])[1] if named else None


class frozen:  # noqa: N801 - a context manager
    """Inside, a module's parameters take no gradient."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
