"""How a training image is cut out of a photograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from coda_deploy.data.source import check_whole
from coda_runtime.errors import ImageError, InputError


@dataclass(frozen=True)
class Crop:
    """A random square of an image that was scaled before.

    The shorter side is scaled with Lanczos to ``round(zoom * size)`` (arXiv 2503.17760 has 1.125); a square of
    ``size`` is cut out at random, and mirrored half of the time with ``flip`` (the paper does not).

    With ``zoom_max`` the shorter side is drawn log-uniformly between ``zoom * size`` and ``zoom_max * size``, but not
    beyond the image's own: details as well as whole views. With ``upscale`` False no image is enlarged, and one whose
    shorter side is under ``size`` is refused.

    Raises ``InputError`` for numbers that do not fit.
    """

    size: int
    zoom: float = 1.125
    zoom_max: float | None = None
    flip: bool = False
    upscale: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_whole("the crop's size", self.size, 1)
        if not 1 <= self.zoom < math.inf:
            raise InputError(f"zoom must be a finite number, 1 or more, found {self.zoom!r}")
        if self.zoom_max is not None and not self.zoom <= self.zoom_max < math.inf:
            raise InputError(f"zoom_max must be a finite number, at least zoom ({self.zoom}), found {self.zoom_max!r}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """RGB image -> uint8 [size,size,3], a function of the image and of ``rng``'s state. Raises ``ImageError``."""
        short = min(image.size)
        if not self.upscale and short < self.size:
            raise ImageError(
                f"the image has {image.width} x {image.height} pixels, too few for {self.size} x {self.size} without "
                "enlarging it"
            )
        scaled = self._shorter_side(short, rng)
        width, height = (int(scaled * side / short) for side in image.size)
        left, top = int(rng.integers(width - self.size + 1)), int(rng.integers(height - self.size + 1))
        # Only what will be seen is scaled, in half the time. Pillow rounds between its two passes, so a value here and
        # there is one or two away from that of the whole image scaled and then cut.
        (x0, x1), (y0, y1) = self._span(left, image.width, width), self._span(top, image.height, height)
        pixels = np.asarray(image.resize((self.size, self.size), Image.Resampling.LANCZOS, box=(x0, y0, x1, y1)))
        return np.ascontiguousarray(pixels[:, ::-1]) if self.flip and rng.random() < 0.5 else pixels

    def _span(self, start: int, before: int, after: int) -> tuple[float, float]:
        """Return where [start, start + size) of an axis of ``after`` pixels was when it had ``before``."""
        return before * start / after, before * (start + self.size) / after

    def _shorter_side(self, short: int, rng: np.random.Generator) -> int:
        low = round(self.zoom * self.size)
        if not self.upscale:
            low = min(low, short)
        if self.zoom_max is None:
            return low
        high = max(low, min(round(self.zoom_max * self.size), short))
        return round(low * math.pow(high / low, rng.random()))
