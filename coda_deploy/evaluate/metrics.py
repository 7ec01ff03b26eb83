"""The figures that compare images: their keys in JSON, their names, and how they are written. Each stands here once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Compare = Callable[[Pixels, Pixels], NDArray[np.float64]]
"""Originals and reconstructions, uint8 [B, S, S, 3], to a number for each image, float64 [B]."""


@dataclass(frozen=True)
class Metric:
    """One figure: its key, its name, what is better, digits and unit, and why it may be missing."""

    key: str
    name: str
    better: str
    digits: int
    missing: str
    unit: str = ""

    def write(self, value: float) -> str:
        """Return the value as text."""
        return f"{value:.{self.digits}f}{self.unit}"

    def write_difference(self, value: float) -> str:
        """Return a difference of two values as text, with its sign; one too small for the digits by its magnitude."""
        small = 0 < abs(value) < 0.5 * 10**-self.digits
        return f"{value:+.0e}{self.unit}" if small else f"{value:+.{self.digits}f}{self.unit}"


METRICS = (
    Metric("psnr", "PSNR", "higher", 2, "every reconstruction is identical to its original", " dB"),
    Metric("ssim", "SSIM", "higher", 4, "left out with --skip ssim"),
    Metric("ms_ssim", "MS-SSIM", "higher", 4, "left out with --skip ms-ssim"),
    Metric("lpips", "LPIPS (VGG)", "lower", 4, "ask for it with --lpips"),
    Metric("lpips_alex", "LPIPS (AlexNet)", "lower", 4, "ask for it with --lpips-alex"),
    Metric("dists", "DISTS", "lower", 4, "ask for it with --dists"),
    Metric("ssimulacra2", "SSIMULACRA2", "higher", 2, "ask for it with --ssimulacra2"),
    Metric("rfid", "rFID", "lower", 3, "ask for it with --rfid"),
)
QUALITIES = tuple(metric.key for metric in METRICS)
