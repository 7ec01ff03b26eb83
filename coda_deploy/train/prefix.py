"""A loss on what the first scales alone decode to, so that a few tokens already show the image's colours.

The paper's objective looks at the whole sum of scales only; a decoder that never saw less makes anything of it, and
what a generator shows first is green. A prefix that ends with the scale of side s can hold s x s values: it is compared
with the image blurred to that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def draw_prefix(scales: Sequence[int], seed: int) -> int:
    """Return how many scales to decode: those up to half of the latent's side, each as likely; at least one."""
    coarse = sum(2 * side <= scales[-1] for side in scales)
    return random.Random(seed).randint(1, max(1, coarse))


def prefix_loss(decoded: Tensor, images: Tensor, side: int) -> Tensor:
    """Return the mean squared error to the images as ``side`` x ``side`` values show them; both float [B, 3, H, W]."""
    size = images.shape[-2:]
    seen = F.interpolate(images, size=(side, side), mode="area")
    blurred = F.interpolate(seen, size=size, mode="bicubic", align_corners=False)
    return F.mse_loss(decoded.float(), blurred)
