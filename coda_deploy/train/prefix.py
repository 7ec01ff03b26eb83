"""A loss on what the first scales alone decode to, so that a few tokens already show the image's colours.

The paper's objective looks at the whole sum of scales only; a decoder that never saw less makes anything of it, and
what a generator shows first is green. A prefix that ends with a scale of h x w tokens can hold h x w values: it is
compared with the image blurred to that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from coda_runtime.format.sizes import Shape


def draw_prefix(shapes: Sequence[Shape], seed: int) -> int:
    """Return how many scales to decode: those up to half of the latent's sides, each as likely; at least one."""
    coarse = sum(2 * height <= shapes[-1][0] and 2 * width <= shapes[-1][1] for height, width in shapes)
    return random.Random(seed).randint(1, max(1, coarse))


def prefix_loss(decoded: Tensor, images: Tensor, shape: Shape) -> Tensor:
    """Return the mean squared error to the images as ``shape`` (h, w) values show them; both float [B, 3, H, W]."""
    size = images.shape[-2:]
    seen = F.interpolate(images, size=shape, mode="area")
    blurred = F.interpolate(seen, size=size, mode="bicubic", align_corners=False)
    return F.mse_loss(decoded.float(), blurred)
