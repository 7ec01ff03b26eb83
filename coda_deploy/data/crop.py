"""How a training image is cut out of a photograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from coda_deploy.data.source import check_whole
from coda_runtime.errors import ImageError, InputError
from coda_runtime.format.sizes import Size, shape_of
from coda_runtime.images.resizing import lanczos, scaled, tight_axis


@dataclass(frozen=True)
class Crop:
    """A random square or rectangle of an image that was scaled before.

    ``size`` is a side or (height, width). The side of the image that is tight, of a square the shorter one, is scaled
    with Lanczos to ``round(zoom * size)`` (arXiv 2503.17760 has 1.125), the other with it; ``size`` is cut out at
    random, and mirrored half of the time with ``flip`` (the paper does not).

    With ``zoom_max`` the tight side is drawn log-uniformly between ``zoom * size`` and ``zoom_max * size``, but not
    beyond the image's own: details as well as whole views. With ``upscale`` False no image is enlarged, and one whose
    tight side is under that of ``size`` is refused.

    Raises ``InputError`` for numbers that do not fit.
    """

    size: Size
    zoom: float = 1.125
    zoom_max: float | None = None
    flip: bool = False
    upscale: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        for side in self.size if isinstance(self.size, tuple) else (self.size,):
            check_whole("the crop's size", side, 1)
        if not 1 <= self.zoom < math.inf:
            raise InputError(f"zoom must be a finite number, 1 or more, found {self.zoom!r}")
        if self.zoom_max is not None and not self.zoom <= self.zoom_max < math.inf:
            raise InputError(f"zoom_max must be a finite number, at least zoom ({self.zoom}), found {self.zoom_max!r}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """RGB image -> uint8 [height,width,3], a function of the image and ``rng``'s state. Raises ``ImageError``."""
        across, down = target = shape_of(self.size)[::-1]  # as Pillow has it, width first
        tight = tight_axis(image.size, target)
        if not self.upscale and image.size[tight] < target[tight]:
            raise ImageError(
                f"the image has {image.width} x {image.height} pixels, too few for {across} x {down} without "
                "enlarging it"
            )
        width, height = scaled(image.size, tight, self._length(target[tight], image.size[tight], rng))
        left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
        # Only what will be seen is scaled, in half the time. Pillow rounds between its two passes, so a value here and
        # there is one or two away from that of the whole image scaled and then cut.
        x0, x1 = _span(left, across, image.width, width)
        y0, y1 = _span(top, down, image.height, height)
        pixels = np.asarray(lanczos(image, target, (x0, y0, x1, y1)))
        return np.ascontiguousarray(pixels[:, ::-1]) if self.flip and rng.random() < 0.5 else pixels

    def _length(self, wanted: int, own: int, rng: np.random.Generator) -> int:
        """Draw to what an image's tight side is scaled: ``own`` pixels, of which ``wanted`` are cut out."""
        low = round(self.zoom * wanted)
        if not self.upscale:
            low = min(low, own)
        if self.zoom_max is None:
            return low
        high = max(low, min(round(self.zoom_max * wanted), own))
        return round(low * math.pow(high / low, rng.random()))


def _span(start: int, length: int, before: int, after: int) -> tuple[float, float]:
    """Return where [start, start + length) of an axis of ``after`` pixels was when it had ``before``."""
    return before * start / after, before * (start + length) / after
