"""What the ids say: how much of the codebook they use, and colours to see them by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coda_deploy.evaluate.usage import perplexity, utilization


@dataclass(frozen=True)
class Usage:
    """Use of a codebook of ``vocab_size`` codes by some images' ids.

    ``counts`` [V] is how often each code occurs, ``distinct_per_scale`` and ``tokens_per_scale`` are per scale over
    all images. ``utilization`` is the share of codes seen, 0 to 1; ``perplexity`` is exp of the entropy of the
    counts, 1 to V.
    """

    vocab_size: int
    tokens: int
    counts: NDArray[np.int64]
    distinct_per_scale: tuple[int, ...]
    tokens_per_scale: tuple[int, ...]

    @property
    def distinct(self) -> int:
        """Codes seen at least once."""
        return int(np.count_nonzero(self.counts))

    @property
    def utilization(self) -> float:
        """Share of the codebook seen, 0 to 1."""
        return utilization(self.counts)

    @property
    def perplexity(self) -> float:
        """How many equally frequent codes would have the same entropy."""
        return perplexity(self.counts)

    @property
    def even_utilization(self) -> float:
        """The share that as many draws would be expected to see if every code were equally likely, 0 to 1."""
        return -math.expm1(self.tokens * math.log1p(-1 / self.vocab_size)) if self.vocab_size > 1 else 1.0


def usage(scales: Sequence[NDArray[np.int32]], vocab_size: int) -> Usage:
    """Count the use of the codes in the ids of each scale, int32 [B, s, s]."""
    flat = np.concatenate([ids.ravel() for ids in scales])
    return Usage(
        vocab_size,
        flat.size,
        np.bincount(flat, minlength=vocab_size),
        tuple(int(np.unique(ids).size) for ids in scales),
        tuple(ids.size for ids in scales),
    )


class Palette:
    """Colours for points of the latent space: near values look alike.

    The three main directions of the codebook become lightness, green-red and blue-yellow (Oklab, in which equal
    steps look equal); each is stretched over the range that the codes have.
    """

    def __init__(self, codebook: NDArray[np.float32]) -> None:
        """``codebook`` is the value table, float32 [V, C]."""
        self._mean = codebook.mean(0)
        _, _, axes = np.linalg.svd(codebook - self._mean, full_matrices=False)
        self._axes = axes[:3].T
        self.codes = self.colours(codebook)

    def colours(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Turn values [..., C] into sRGB uint8 [..., 3], stretched over the range of these values."""
        points = (values - self._mean) @ self._axes
        if points.shape[-1] < 3:
            points = np.pad(points, [(0, 0)] * (points.ndim - 1) + [(0, 3 - points.shape[-1])])
        flat = points.reshape(-1, 3)
        # A few far codes would leave the rest all one colour.
        low, high = np.percentile(flat, [3, 97], axis=0)
        span = np.where(high > low, high - low, 1)
        unit = np.clip((points - low) / span, 0, 1)
        return _oklab_to_srgb(unit * (0.60, 0.28, 0.28) + (0.32, -0.14, -0.14))


def _oklab_to_srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn Oklab [..., 3] into sRGB uint8 [..., 3], clipped to what sRGB has."""
    cone = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ cone.T) ** 3 @ rgb.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    pixels: NDArray[np.uint8] = np.round(255 * encoded).astype(np.uint8)
    return pixels
