"""How close a port's tokens and pixels are to the reference's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..codes.metrics import json_number, psnr_per_image
from ..format.sizes import Scales, count_of, shapes_of


def _share(ours: npt.NDArray[np.int32], theirs: npt.NDArray[np.int32], scales: Scales) -> tuple[float, list[float]]:
    same = ours == theirs
    bounds = np.cumsum([count_of(shape) for shape in shapes_of(scales)])[:-1]
    return float(same.mean()), [float(part.mean()) for part in np.split(same, bounds, axis=1)]


def token_parity(
    ids: npt.NDArray[np.int32], reference: npt.NDArray[np.int32], step: npt.NDArray[np.int32], scales: Scales
) -> dict[str, Any]:
    """Return the shares of equal tokens, 0 to 1, in all and per scale; all arguments int32 [B,L].

    `step_agreement` compares with `step`, the reference's search on the residual that `ids` leave: a near tie
    that fell the other way counts once. `agreement` compares with the free-running `reference`, where it changes
    every later scale.
    """
    step_all, step_scales = _share(ids, step, scales)
    free_all, free_scales = _share(ids, reference, scales)
    return {
        "step_agreement": step_all,
        "step_agreement_per_scale": step_scales,
        "agreement": free_all,
        "agreement_per_scale": free_scales,
    }


def mean_psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float | None:
    """Return the mean PSNR in dB over the pairs of uint8 [B,H,W,3] that differ; None when all are identical."""
    return _mean(psnr_per_image(a, b))


def _mean(psnr: npt.NDArray[np.float64]) -> float | None:
    finite = psnr[np.isfinite(psnr)]
    return json_number(float(finite.mean())) if finite.size else None


def pixel_parity(
    images: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]
) -> dict[str, float | None]:
    """Return PSNR in dB between the two decoded images of the same ids (None: identical), and of each to the input.

    `psnr` is the mean over the images, `psnr_min` that of the worst one, which the mean of many hides.
    """
    apart = psnr_per_image(decoded, reference)
    return {
        "psnr": _mean(apart),
        "psnr_min": json_number(float(apart.min())),
        "psnr_to_input": mean_psnr(decoded, images),
        "reference_psnr_to_input": mean_psnr(reference, images),
    }


def psnr_loss(
    images: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]
) -> dict[str, float]:
    """Return by how many dB a reconstruction's PSNR against the input falls under the reference's; all [B,H,W,3].

    `psnr_drop` is the mean over the images, `psnr_drop_max` the worst image's; less than 0 is a gain.
    `psnr_drop_error` is the mean's standard error, by how much it would vary over other images; 0 of a single one.
    """
    # Identical images have no finite PSNR: they count as one step of one colour in one pixel would.
    ceiling = 10 * math.log10(255 * 255 * images[0].size)
    ours, theirs = (np.minimum(psnr_per_image(pixels, images), ceiling) for pixels in (decoded, reference))
    drop = theirs - ours
    error = float(drop.std(ddof=1)) / math.sqrt(drop.size) if drop.size > 1 else 0.0
    return {"psnr_drop": float(drop.mean()), "psnr_drop_error": error, "psnr_drop_max": float(drop.max())}
