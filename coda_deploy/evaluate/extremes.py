"""The reconstructions furthest from their originals and closest to them, in memory that does not grow."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Shown(NamedTuple):
    """One image, uint8 [S, S, 3], with what its tokens and the continuous VAE give back; ``psnr`` of the first, dB."""

    name: str
    psnr: float
    original: Pixels
    tokens: Pixels
    continuous: Pixels | None

    def copy(self) -> Shown:
        """Return a copy in memory of its own: a view would keep its whole batch."""
        continuous = None if self.continuous is None else self.continuous.copy()
        return Shown(self.name, self.psnr, self.original.copy(), self.tokens.copy(), continuous)


class Extremes:
    """Keeps the ``keep`` images of lowest and of highest PSNR among those added; of equal ones the first is lower."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._seen = 0
        # Heaps, whose first item is the next to go. No two keys are equal, so that images are never compared.
        self._low: list[tuple[tuple[float, int], Shown]] = []
        self._high: list[tuple[tuple[float, int], Shown]] = []

    def add(self, shown: Shown) -> None:
        """Take in one image; its arrays are copied where they are kept."""
        kept: Shown | None = None
        for heap, sign in ((self._low, -1), (self._high, 1)):
            key, full = (sign * shown.psnr, sign * self._seen), len(heap) >= self._keep
            if self._keep == 0 or (full and key < heap[0][0]):
                continue
            kept = kept or shown.copy()
            (heapq.heapreplace if full else heapq.heappush)(heap, (key, kept))
        self._seen += 1

    def split(self) -> tuple[list[Shown], list[Shown]]:
        """Return (worst, from the lowest PSNR on; best, from the highest on); none is in both."""
        low = [shown for _, shown in sorted(self._low, key=lambda item: item[0], reverse=True)]
        high = [shown for _, shown in sorted(self._high, key=lambda item: item[0], reverse=True)]
        if self._seen >= 2 * self._keep:
            return low, high
        # Both heaps hold images of the other half.
        return low[: (self._seen + 1) // 2], high[: self._seen // 2]
