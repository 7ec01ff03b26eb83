"""How alike two batches of images are, image by image: SSIM and LPIPS. PSNR is ``coda_runtime.metrics``'."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_deploy.evaluate.devices import to_tensor
from coda_deploy.tokenizer.pixels import from_pixels
from coda_runtime.errors import InputError, MissingDependencyError

Pixels = NDArray[np.uint8]
# Wang et al. 2004 weigh an 11 x 11 window with a Gaussian of this width.
SIGMA, WINDOW = 1.5, 11


def require_ssim() -> None:
    """Raise ``MissingDependencyError`` where scikit-image is not installed."""
    if importlib.util.find_spec("skimage") is None:
        raise MissingDependencyError(
            "SSIM needs scikit-image, which is not installed: leave it out with --skip ssim, or",
            "scikit-image",
            extra="eval",
        )


def ssim_per_image(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """SSIM of each pair of uint8 [B, H, W, 3], at most 1: float64 [B].

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), by scikit-image: Gaussian window of sigma 1.5 (11 x 11), K1 0.01,
    K2 0.03, L 255, on each of R, G and B and then averaged. Raises ``InputError`` for images under 11 pixels.
    """
    from skimage.metrics import structural_similarity

    if min(a.shape[1:3]) < WINDOW:
        raise InputError(f"SSIM needs images of {WINDOW} pixels or more, these have {a.shape[1]}: give --skip ssim")
    ssim: Callable[..., float] = structural_similarity
    settings = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    pairs = zip(a, b, strict=True)
    return np.array([ssim(x, y, data_range=255, channel_axis=-1, **settings) for x, y in pairs], np.float64)


class Perceptual:
    """LPIPS (arXiv 1801.03924) over VGG-16, for uint8 images."""

    def __init__(self, weights: str | os.PathLike[str] | None, device: torch.device) -> None:
        """Load VGG-16's ``weights``, a file; None looks where :class:`coda_deploy.perception.Lpips` does.

        Raises ``MissingDependencyError``, ``WeightsError``.
        """
        from coda_deploy.perception import Lpips

        self.device = device
        self._network = Lpips(weights, option="--lpips-weights", extra="eval").to(device)

    def __call__(self, a: Pixels, b: Pixels) -> NDArray[np.float64]:
        """LPIPS of each pair of uint8 [B, H, W, 3], 0 for identical ones: float64 [B]."""
        with torch.inference_mode():
            found: Tensor = self._network(*(from_pixels(to_tensor(images, self.device)) for images in (a, b)))
        return np.asarray(found.double().cpu().numpy())
