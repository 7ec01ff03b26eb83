"""SSIM and PSNR against formulations of other hands, on photographs."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio

from coda_deploy import photographs
from coda_deploy.evaluate.similarity import Perceptual, require_ssim, ssim_per_image
from coda_deploy.perception import Lpips
from coda_deploy.tokenizer.storage import WeightsError
from coda_runtime.errors import InputError, MissingDependencyError
from coda_runtime.images import fit
from coda_runtime.metrics import psnr_per_image
from tests.deploy.perception.published import vgg_state

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


def test_images_smaller_than_the_window_are_refused() -> None:
    tiny = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="11 pixels or more, these have 8: give --skip ssim"):
        ssim_per_image(tiny, tiny)


def test_psnr_is_scikit_images(originals: NDArray[np.uint8], worse: NDArray[np.uint8]) -> None:
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(originals, worse, strict=True)]
    assert psnr_per_image(originals, worse) == pytest.approx(expected)


def test_a_missing_scikit_image_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    require_ssim()
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependencyError, match=r'--skip ssim, or.* pip install "scikit-image>='):
        require_ssim()


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file(vgg_state(), path)
    return path


def test_lpips_sees_the_images_from_minus_one_to_one(
    vgg: Path, originals: NDArray[np.uint8], worse: NDArray[np.uint8]
) -> None:
    distance = Perceptual(vgg, torch.device("cpu"))
    originals.flags.writeable = False  # as a mapped .npy is
    found = distance(originals[:3], worse[:3])
    a, b = (torch.from_numpy(np.array(x[:3])).permute(0, 3, 1, 2).double() / 255 * 2 - 1 for x in (originals, worse))
    assert found == pytest.approx(Lpips(vgg)(a.float(), b.float()).detach().numpy(), rel=1e-4)
    assert found.dtype == np.float64
    assert (found > 0.01).all()
    assert distance(worse[:1], worse[:1]) == pytest.approx([0], abs=1e-6)


def test_missing_weights_of_lpips_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--lpips-weights: there is no file"):
        Perceptual(tmp_path / "none.pth", torch.device("cpu"))
