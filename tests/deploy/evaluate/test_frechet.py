"""The Frechet distance against formulations of other hands, and the real Inception with random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from coda_deploy import photographs
from coda_deploy.errors import WeightsError
from coda_deploy.evaluate.frechet import FrechetMeter, Gaussian, Inception, frechet_distance
from coda_runtime.errors import MissingDependencyError
from coda_runtime.images import fit
from tests.deploy.evaluate.networks import inception_state

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def gaussian(features: NDArray[np.float64]) -> Gaussian:
    found = Gaussian(features.shape[1])
    found.add(features)
    return found


def clouds(count: int, features: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(features, features))
    return rng.normal(size=(count, features)) @ mix, 0.3 + rng.normal(size=(count, features)) @ mix.T


def low_rank(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The distance between samples: tr sqrt(A'A B'B) is the sum of the singular values of A B'."""
    a, b = ((of - of.mean(0)) / np.sqrt(len(of) - 1) for of in (x, y))
    mixed = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * mixed)


@given(st.integers(2, 40), st.lists(st.integers(0, 40)), st.floats(-1e3, 1e3))
def test_batches_give_the_statistics_of_all(count: int, cuts: list[int], offset: float) -> None:
    features = np.random.default_rng(count).normal(offset, 1, size=(count, 3))
    found = Gaussian(3)
    for part in np.split(features, sorted(min(cut, count) for cut in cuts)):
        found.add(part)
    assert found.count == count
    np.testing.assert_allclose(found.mean, features.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), atol=1e-10)


def test_distance_is_that_of_the_matrix_square_root() -> None:
    x, y = clouds(200, 16)
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(expected, rel=1e-6)
    assert low_rank(x, y) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_have_no_distance() -> None:
    x, _ = clouds(12, 16)
    assert 0 <= frechet_distance(gaussian(x), gaussian(x)) < 1e-5


def test_fewer_images_than_features_still_have_one() -> None:
    x, y = clouds(6, 16)
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(low_rank(x, y), rel=1e-5)


def test_every_set_is_compared_with_the_originals() -> None:
    rng = np.random.default_rng(0)
    originals, one, other = rng.integers(0, 256, (3, 10, 4, 4, 3), dtype=np.uint8)
    meter = FrechetMeter(lambda images: images.reshape(len(images), -1)[:, :5].astype(float))
    for where in (slice(0, 7), slice(7, 10)):
        meter.add(originals[where], {"one": one[where], "other": other[where]})
    features = [images.reshape(10, -1)[:, :5].astype(float) for images in (originals, one, other)]
    expected = {name: low_rank(features[0], of) for name, of in zip(("one", "other"), features[1:], strict=True)}
    assert meter.distances() == pytest.approx(expected, rel=1e-6)


def test_one_image_has_no_distance() -> None:
    image = np.zeros((1, 4, 4, 3), np.uint8)
    meter = FrechetMeter(lambda images: np.ones((len(images), 2)))
    assert meter.distances() == {}
    meter.add(image, {"tokens": image})
    assert meter.distances() == {}


@pytest.fixture(scope="module")
def originals() -> NDArray[np.uint8]:
    return np.stack([fit(path, 64) for path in photographs.paths()[:4]])


@pytest.fixture(scope="module")
def file(originals: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(inception_state(torch.from_numpy(originals).permute(0, 3, 1, 2)), path)
    yield path
    path.unlink()


def test_rfid_of_the_real_network(file: Path, originals: NDArray[np.uint8]) -> None:
    network = Inception(file, CPU)
    originals.flags.writeable = False  # as a mapped .npy is
    features = network(originals)
    assert features.shape == (4, 2048)
    assert features.dtype == np.float64
    assert (features.std(0) > 0).mean() > 0.9
    # The command's test takes all of the features, whose eigenvalues take seconds.
    worse, meter = originals // 32 * 32, FrechetMeter(lambda images: network(images)[:, :50])
    meter.add(originals, {"tokens": worse})
    expected = low_rank(features[:, :50], network(worse)[:, :50])
    assert meter.distances()["tokens"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1


def test_another_networks_weights_are_reported(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError, match=r"other\.pth does not hold the weights of torch-fidelity's Inception \(Missing key"
    ):
        Inception(tmp_path / "other.pth", CPU)


def test_code_in_the_file_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"fc.bias": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        Inception(tmp_path / "evil.pth", CPU)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--inception-weights: there is no file"):
        Inception(tmp_path / "none.pth", CPU)


def test_missing_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingDependencyError, match=r'pip install .*"torch-fidelity>='):
        Inception(None, CPU)
