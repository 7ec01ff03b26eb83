"""Numbers that tell how alike images or tokens are, and how they are written."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import ImageError


def psnr_per_image(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the PSNR of each pair of images in dB, float64 [B], from uint8 [B,H,W,3]; identical images give inf.

    Raises ImageError unless both are uint8 of the same shape with at least one image.
    """
    if a.dtype != np.uint8 or b.dtype != np.uint8 or a.shape != b.shape or a.ndim != 4 or a.size == 0:
        raise ImageError(
            f"psnr got {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}; "
            "expected two uint8 arrays of one shape [B,H,W,3] with at least one image"
        )
    # One image at a time: the squares of a whole batch in int64 would take 16 times its memory.
    errors = [float(np.mean(np.square(x.astype(np.int32) - y), dtype=np.float64)) for x, y in zip(a, b, strict=True)]
    return np.array([math.inf if mse == 0 else 10 * math.log10(255 * 255 / mse) for mse in errors])


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Return the mean PSNR over the images of a batch in dB, from uint8 [B,H,W,3]; inf when a pair is identical.

    Raises ImageError unless both are uint8 of the same shape with at least one image.
    """
    return float(np.mean(psnr_per_image(a, b)))


def json_number(value: float) -> float | None:
    """Return a number as JSON holds it: None (null) for NaN and for inf, which is how identical images are reported."""
    return float(value) if math.isfinite(value) else None


def percent(share: float, digits: int = 3) -> str:
    """Write a share in percent: from 0 to 1 cut, not rounded, so that only 1 itself reads as 100 %."""
    if share == 1:
        return "100 %"
    if 0 <= share < 1:
        # What a binary fraction lacks to a decimal one is no reason to cut a digit: 0.9995 is 99.950 %.
        share = math.floor(share * 10 ** (digits + 2) + 1e-6) / 10 ** (digits + 2)
    return f"{100 * share:.{digits}f} %"
