"""The schedule of scales for a latent of any shape, where none is given."""

from __future__ import annotations

import math

from coda_deploy.errors import ConfigError
from coda_runtime.errors import InputError
from coda_runtime.format.sizes import Scales, Shape, Size, is_size, latent_shape, read_size, scales_of
from coda_runtime.format.spec import MAX_SIDE
from coda_runtime.io.json_fields import describe

PUBLISHED = {
    16: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    32: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}
"""arXiv 2503.17760's schedules, by the side of the latent."""


def default_scales(latent: Shape) -> Scales:
    """Return a schedule that ends at ``latent`` (h, w): the published one, bent to its size and aspect.

    A latent of h x w is as large as a square of side n = sqrt(h w). The published schedule whose last side m is nearer
    (by ratio) is bent to end at n, each side s becoming s^(log n / log m), so that it still grows by about the same
    factor from scale to scale; then each is stretched to h/n and w/n of it, so that tokens stay about square, and
    rounded, to 1 at least. The first scale is one token; of equal ones that follow each other one is kept. For 16 x 16
    and 32 x 32 these are the published schedules.
    """
    side = math.sqrt(latent[0] * latent[1])
    last = min(PUBLISHED, key=lambda m: (abs(math.log(side / m)), m))
    bend = math.log(side) / math.log(last)
    shapes = [(1, 1)]
    for scale in PUBLISHED[last][1:-1]:
        height, width = (max(1, math.floor(scale**bend * of / side + 0.5)) for of in latent)
        shapes.append((min(height, latent[0]), min(width, latent[1])))
    shapes.append(latent)
    return scales_of(dict.fromkeys(shapes))


def scales_for(image_size: Size, downsample: int) -> Scales:
    """Return `default_scales` for images of a size in pixels. Raises ``ConfigError`` where ``downsample`` fits not."""
    if not is_size(image_size, MAX_SIDE):
        raise ConfigError(f"image_size is {describe(image_size)}; expected a side in pixels up to {MAX_SIDE}, or two")
    try:
        return default_scales(latent_shape("image_size", read_size(image_size), downsample))
    except InputError as error:
        raise ConfigError(str(error)) from None
