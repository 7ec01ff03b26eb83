"""How alike two batches of images are, image by image, without a network. PSNR is ``coda_runtime.codes.metrics``'."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from coda_deploy.evaluate.devices import to_tensor
from coda_deploy.evaluate.metrics import Pixels
from coda_runtime.errors import InputError, MissingDependencyError

# Wang et al. 2004 weigh an 11 x 11 window with a Gaussian of this width.
SIGMA, WINDOW = 1.5, 11
# Of the scales of MS-SSIM, fine to coarse.
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SCALES = len(WEIGHTS)


def require_ssim() -> None:
    """Raise ``MissingDependencyError`` where scikit-image is not installed."""
    _require("skimage", "SSIM", "--skip ssim leaves it out", "scikit-image")


def ssim_per_image(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Compute SSIM of each pair of uint8 [B, H, W, 3], at most 1: float64 [B].

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), by scikit-image: Gaussian window of sigma 1.5 (11 x 11), K1 0.01,
    K2 0.03, L 255, on each of R, G and B and then averaged. Raises ``InputError`` for images under 11 pixels.
    """
    from skimage.metrics import structural_similarity

    side = min(a.shape[1:3])
    if side < WINDOW:
        raise InputError(f"SSIM needs images of {WINDOW} pixels or more, these have {side}: give --skip ssim")
    ssim: Callable[..., float] = structural_similarity
    settings = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    pairs = zip(a, b, strict=True)
    return np.array([ssim(x, y, data_range=255, channel_axis=-1, **settings) for x, y in pairs], np.float64)


def require_ms_ssim() -> None:
    """Raise ``MissingDependencyError`` where torchmetrics is not installed."""
    _require("torchmetrics", "MS-SSIM", "--skip ms-ssim leaves it out")


def ms_ssim_scales(size: int) -> int:
    """Return how many scales MS-SSIM has for images whose shorter side has that many pixels: five from 176 on."""
    return max(
        [1, *(n for n in range(1, SCALES + 1) if size // max(1, n - 1) ** 2 >= WINDOW and size >> (n - 1) >= WINDOW)]
    )


def ms_ssim_per_image(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Compute MS-SSIM of each pair of uint8 [B, H, W, 3], at most 1: float64 [B].

    Wang, Simoncelli and Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), by torchmetrics, with the window of
    `ssim_per_image`; at the last scale windows reach over the border into a mirrored image. Images that are too
    small for its five scales are compared over the first of them, whose weights are divided by their sum. Raises
    ``InputError`` for images under 11 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    side = min(a.shape[1:3])
    if side < WINDOW:
        raise InputError(f"MS-SSIM needs images of {WINDOW} pixels or more, these have {side}: give --skip ms-ssim")
    weights = np.array(WEIGHTS[: ms_ssim_scales(side)])
    # On the CPU: float64 keeps the variances of flat regions, which float32 loses.
    pair = (to_tensor(images, torch.device("cpu")).permute(0, 3, 1, 2).double() for images in (a, b))
    found: Tensor = ms_ssim(*pair, data_range=255.0, betas=tuple(weights / weights.sum()), reduction="none")
    return np.asarray(found.double().numpy()).reshape(-1)


def require_ssimulacra2() -> None:
    """Raise ``MissingDependencyError`` where ssimulacra2 is not installed."""
    _require("ssimulacra2", "SSIMULACRA2", "without --ssimulacra2 it is left out")


def ssimulacra2_per_image(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Compute SSIMULACRA 2 of each pair of uint8 [B, H, W, 3], originals first, 100 for identical ones: float64 [B].

    By the package ssimulacra2, a port of the reference in C++ to NumPy: 0.1 to 0.2 s an image.
    """
    from ssimulacra2 import compute_ssimulacra2

    return np.array([compute_ssimulacra2(_file(x), _file(y)) for x, y in zip(a, b, strict=True)], np.float64)


def _file(image: Pixels) -> BytesIO:
    """Return an image as a file in memory, which is all that the package takes."""
    file = BytesIO()
    Image.fromarray(image).save(file, "ppm")
    file.seek(0)
    return file


def _require(module: str, what: str, instead: str, package: str | None = None) -> None:
    if importlib.util.find_spec(module) is None:
        name = package or module
        raise MissingDependencyError(f"{what} needs {name}, which is not installed ({instead})", name, extra="eval")
