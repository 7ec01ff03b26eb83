"""Figures that need no network, against formulations of other hands, on photographs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from skimage.metrics import peak_signal_noise_ratio

from coda_deploy import photographs
from coda_deploy.evaluate.similarity import (
    ms_ssim_per_image,
    ms_ssim_scales,
    require_ms_ssim,
    require_ssim,
    require_ssimulacra2,
    ssim_per_image,
    ssimulacra2_per_image,
)
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.errors import InputError, MissingDependencyError
from coda_runtime.images import fit

pytestmark = pytest.mark.numeric

SIZE = 64


@pytest.fixture(scope="module")
def originals() -> NDArray[np.uint8]:
    return np.stack([fit(path, SIZE) for path in photographs.paths()])


@pytest.fixture(scope="module")
def worse(originals: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every photograph spoilt in one of three ways."""
    out = []
    for index, pixels in enumerate(originals):
        image = Image.fromarray(pixels)
        if index % 3 == 0:
            out.append(np.asarray(image.filter(ImageFilter.GaussianBlur(2))))
        elif index % 3 == 1:
            file = BytesIO()
            image.save(file, "JPEG", quality=10)
            out.append(np.asarray(Image.open(file)))
        else:
            noise = np.random.default_rng(index).normal(0, 20, pixels.shape)
            out.append(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))
    return np.stack(out)


def ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Wang et al. 2004, eq. 13: an 11 x 11 Gaussian window wherever it lies inside, written out for one channel."""
    steps = np.arange(11) - 5
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mu_a, mu_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mu_a) ** 2).sum(), (window * (b - mu_b) ** 2).sum()
            cov = (window * (a - mu_a) * (b - mu_b)).sum()
            values.append((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def test_ssim_is_that_of_the_paper(originals: NDArray[np.uint8], worse: NDArray[np.uint8]) -> None:
    found = ssim_per_image(originals, worse)
    assert found.shape == (8,)
    for index in (0, 1, 2):
        pair = originals[index].astype(float), worse[index].astype(float)
        expected = np.mean([ssim(pair[0][..., c], pair[1][..., c]) for c in range(3)])
        assert found[index] == pytest.approx(expected, abs=1e-6)
        assert found[index] < 0.95


def test_identical_images_have_ssim_1(originals: NDArray[np.uint8]) -> None:
    assert ssim_per_image(originals, originals) == pytest.approx(np.ones(8))


def test_images_smaller_than_the_window_are_rejected() -> None:
    tiny = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="11 pixels or more, these have 8: give --skip ssim"):
        ssim_per_image(tiny, tiny)


def test_psnr_is_scikit_images(originals: NDArray[np.uint8], worse: NDArray[np.uint8]) -> None:
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(originals, worse, strict=True)]
    assert psnr_per_image(originals, worse) == pytest.approx(expected)


def test_a_missing_scikit_image_is_reported_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    require_ssim()
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(
        MissingDependencyError, match=r'--skip ssim leaves it out.; install it: pip install "scikit-image>='
    ):
        require_ssim()


def ms_ssim(x: NDArray[np.float64], y: NDArray[np.float64], weights: list[float]) -> float:
    """Wang, Simoncelli and Bovik 2003, eq. 7: contrast and structure at every scale, luminance at the last.

    As torchmetrics has it: over all colours at once, and at the last scale also over windows that the border cuts, in
    mirrored images.
    """
    steps = np.arange(11) - 5
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    total = 1.0
    for scale, weight in enumerate(weights):
        last = scale == len(weights) - 1
        edge = ((5, 5), (5, 5), (0, 0)) if last else ((0, 0),) * 3
        a, b = (sliding_window_view(np.pad(of, edge, "reflect"), (11, 11), (0, 1)) for of in (x, y))
        mu_a, mu_b = (np.einsum("hwcij,ij->hwc", of, window) for of in (a, b))
        var_a, var_b, cov = (
            np.einsum("hwcij,ij->hwc", p * q, window) - m * n
            for p, q, m, n in ((a, a, mu_a, mu_a), (b, b, mu_b, mu_b), (a, b, mu_a, mu_b))
        )
        contrast = (2 * cov + c2) / (var_a + var_b + c2)
        luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
        total *= float((contrast * luminance if last else contrast).mean()) ** weight
        height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
        x, y = (of[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)) for of in (x, y))
    return total


@pytest.mark.parametrize(("size", "scales"), [(32, 2), (64, 3), (128, 4), (176, 5)])
def test_ms_ssim_is_that_of_the_paper(size: int, scales: int) -> None:
    x = np.stack([fit(path, size) for path in photographs.paths()][:2])
    y = np.clip(x + np.random.default_rng(0).normal(0, 20, x.shape), 0, 255).round().astype(np.uint8)
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:scales]
    shares = [weight / sum(weights) for weight in weights]
    assert ms_ssim_scales(size) == scales
    found = ms_ssim_per_image(x, y)
    expected = [ms_ssim(a.astype(float), b.astype(float), shares) for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert (found < 0.99).all()
    assert ms_ssim_per_image(x, x) == pytest.approx([1, 1])


@pytest.mark.parametrize("size", [*range(11, 40), 95, 96, 160, 161, 175, pytest.param(512, marks=pytest.mark.slow)])
def test_every_size_has_scales_that_fit(size: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    assert ms_ssim_per_image(x, x) == pytest.approx([1])
    with pytest.raises(InputError, match="MS-SSIM needs images of 11 pixels or more, these have 10"):
        ms_ssim_per_image(x[:, :10], x[:, :10])


def test_ssimulacra2_is_the_packages_on_files(
    originals: NDArray[np.uint8], worse: NDArray[np.uint8], tmp_path: Path
) -> None:
    from ssimulacra2 import compute_ssimulacra2

    found = ssimulacra2_per_image(originals[:3], worse[:3])
    for index in range(3):
        Image.fromarray(originals[index]).save(tmp_path / "original.png")
        Image.fromarray(worse[index]).save(tmp_path / "worse.png")
        assert found[index] == compute_ssimulacra2(tmp_path / "original.png", tmp_path / "worse.png")
    assert (found < 80).all()
    assert ssimulacra2_per_image(originals[:2], originals[:2]) == pytest.approx([100, 100])


@pytest.mark.parametrize(
    ("module", "require", "told"),
    [
        ("torchmetrics", require_ms_ssim, r"MS-SSIM needs torchmetrics, which is not installed \(--skip ms-ssim"),
        ("ssimulacra2", require_ssimulacra2, r"SSIMULACRA2 needs ssimulacra2, which is not installed \(without"),
    ],
)
def test_other_missing_packages(
    module: str, require: Callable[[], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf'{told}.*; install it: pip install "{module}>='):
        require()
