"""Differentiable augmentation of what the discriminator sees (arXiv 2006.10738), and a blur that fades out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from coda_runtime.io.counts import count

SHIFT = 1 / 8
"""How far an image moves at most, as a share of its side."""
HOLE = 0.2
"""The side of the cut-out rectangle, as a share of the image's."""


@dataclass(frozen=True)
class AugmentDraw:
    """The random choices for one batch: what is done to all of it, and seven numbers in [0, 1) for each image."""

    translate: bool
    colour: bool
    cutout: bool
    numbers: Tensor
    """float32 [count, 7] on the CPU: down, right, brightness, saturation, contrast, row and column of the hole."""

    def rows(self, rank: int, world: int) -> AugmentDraw:
        """Return one process's share: the images of the global batch lie in ``world`` equal runs, one after the other.

        Raises ``ValueError`` when the batch does not divide.
        """
        images = len(self.numbers)
        if images % world:
            raise ValueError(
                f"{count(images, 'image')} cannot be shared evenly by {count(world, 'process', 'processes')}"
            )
        share = images // world
        return replace(self, numbers=self.numbers[rank * share : (rank + 1) * share])


def draw(generator: torch.Generator, count: int, probability: float = 1.0) -> AugmentDraw:
    """Draw choices for ``count`` images; each kind of change happens with ``probability``, to the whole batch.

    Always takes the same amount from ``generator``, which lies on the CPU.
    """
    translate, colour, cutout = (torch.rand(3, generator=generator) < probability).tolist()
    return AugmentDraw(translate, colour, cutout, torch.rand(count, 7, generator=generator))


def augment(images: Tensor, draw: AugmentDraw, blur: float = 0.0) -> Tensor:
    """Turn images [B, 3, H, W] in [-1, 1] into float32 of that shape, changed as drawn; gradients flow back.

    ``blur`` goes from 1, a Gaussian of standard deviation ``sqrt(side / 2)`` pixels, to 0, none. What a shift uncovers
    and the hole are 0, grey. Colours may leave [-1, 1]. Raises ``ValueError`` when ``draw`` is for another count.
    """
    if len(images) != len(draw.numbers):
        raise ValueError(f"{count(len(images), 'image')}, and numbers for {len(draw.numbers)}")
    with torch.autocast(images.device.type, enabled=False):
        images = _blur(images.float(), blur)
        if draw.translate:
            images = _translate(images, draw.numbers[:, 0:2])
        if draw.colour:
            images = _recolour(images, draw.numbers[:, 2:5].to(images.device))
        if draw.cutout:
            images = images * _outside(images.shape[-2:], draw.numbers[:, 5:7]).to(images.device)
    return images


def _blur(images: Tensor, amount: float) -> Tensor:
    """Blur by the true Gaussian; the reference's kernel ``2^-(x/sigma)^2`` is one of 0.85 sigma."""
    side = min(images.shape[-2:])
    sigma = math.sqrt(side / 2) * amount
    radius = min(math.floor(3 * sigma), side - 1)  # a reflection cannot be wider than the image
    if radius < 1:
        return images
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-x.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    images = F.pad(images, (radius,) * 4, mode="reflect")
    images = F.conv2d(images, kernel, groups=images.shape[1])
    return F.conv2d(images, kernel.transpose(2, 3), groups=images.shape[1])


def _translate(images: Tensor, numbers: Tensor) -> Tensor:
    sides = torch.tensor(images.shape[-2:])
    reach = (sides * SHIFT).round()
    shifts = ((2 * reach + 1) * numbers).floor() - reach
    moved = []
    for image, (down, right) in zip(images, shifts.int().tolist(), strict=True):
        moved.append(F.pad(image, (right, -right, down, -down)))  # a negative pad cuts off
    return torch.stack(moved)


def _recolour(images: Tensor, numbers: Tensor) -> Tensor:
    brightness, saturation, contrast = numbers.view(-1, 3, 1, 1, 1).unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    level = images.mean((1, 2, 3), keepdim=True)
    return level + (images - level) * (contrast + 0.5)


def _outside(size: torch.Size, numbers: Tensor) -> Tensor:
    """Return [B, 1, H, W]: 0 inside each image's hole, whose middle is anywhere in the image, 1 elsewhere."""
    inside = []
    for side, number in zip(size, numbers.unbind(1), strict=True):
        length = round(side * HOLE)
        # An even length has no middle pixel: one position more keeps the two ends alike.
        start = (number * (side + 1 - length % 2)).floor() - length // 2
        offset = torch.arange(side) - start.unsqueeze(1)
        inside.append((offset >= 0) & (offset < length))
    rows, columns = inside
    return 1 - (rows[:, None, :, None] & columns[:, None, None, :]).float()
