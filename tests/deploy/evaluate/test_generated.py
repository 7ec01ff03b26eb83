"""Images of a generator beside real ones: what is counted, the distance, and the file that ADM's suite reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coda_deploy.data import open_source
from coda_deploy.evaluate import Target, evaluate_generated, open_target
from coda_deploy.evaluate.frechet import Gaussian, frechet_distance
from coda_deploy.evaluate.generated import adm_writer
from tests.deploy.cli.command import coda, one_line
from tests.runtime import tiny

REAL, MADE = tiny.photos(7), tiny.photos(5, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 32 px, real images in an array and generated ones beside it."""
    base = tmp_path_factory.mktemp("generated")
    tiny.make_bundle(base / "bundle")
    for name, images in (("real", REAL), ("made", MADE)):
        np.save(base / f"{name}.npy", images)
    return base


@pytest.fixture(scope="module")
def target(folder: Path) -> Iterator[Target]:
    with open_target(str(folder / "bundle")) as opened:
        yield opened


def features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means of the colours and of their squares."""
    pixels = images.reshape(len(images), -1, 3) / 255
    return np.concatenate([pixels.mean(1), (pixels**2).mean(1)], 1)


def test_figures(folder: Path, target: Target) -> None:
    seen: list[int] = []
    found = evaluate_generated(
        target,
        open_source(folder / "made.npy"),
        open_source(folder / "real.npy"),
        inception=features,
        npz=folder / "made.npz",
        batch_size=3,
        progress=seen.append,
    )
    assert (found.generated.images, found.data.images, sum(seen)) == (5, 7, 12)
    for part, images in ((found.generated, MADE), (found.data, REAL)):
        codes, counts = np.unique(target.encode(images), return_counts=True)
        assert part.utilization == len(codes) / tiny.CODES
        share = counts / counts.sum()
        assert part.perplexity == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    gaussians = [Gaussian(6), Gaussian(6)]
    for gaussian, images in zip(gaussians, (MADE, REAL), strict=True):
        gaussian.add(features(images))
    assert found.gfid == pytest.approx(frechet_distance(*gaussians), abs=1e-9)
    assert found.warnings == ["gFID of 5 images is biased upwards: it is usually told of 50000"]
    with np.load(folder / "made.npz") as data:
        assert data.files == ["arr_0"]
        np.testing.assert_array_equal(data["arr_0"], MADE)
        assert data["arr_0"].dtype == np.uint8


def test_the_same_images_are_at_no_distance(folder: Path, target: Target) -> None:
    sources = [open_source(folder / "real.npy") for _ in range(2)]
    assert evaluate_generated(target, *sources, inception=features).gfid == pytest.approx(0, abs=1e-6)
    assert evaluate_generated(target, *sources).gfid is None


def test_a_file_of_no_images(tmp_path: Path) -> None:
    with adm_writer(tmp_path / "none.npz"):
        pass
    with np.load(tmp_path / "none.npz") as data:
        assert data["arr_0"].shape == (0, 0, 0, 3)


def test_the_command(folder: Path, tmp_path: Path) -> None:
    arguments = ("eval", folder / "bundle", "--data", folder / "real.npy")
    both = (*arguments, "--generated", folder / "made.npy", "--npz", tmp_path / "adm.npz")
    result = coda(*both, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["gfid"], told["npz"], told["warnings"]) == (None, str(tmp_path / "adm.npz"), [])
    assert (told["generated"]["num_images"], told["data"]["num_images"]) == (5, 7)
    with np.load(tmp_path / "adm.npz") as data:
        np.testing.assert_array_equal(data["arr_0"], MADE)
    assert "exists already" in one_line(coda(*both))
    assert "gFID was not asked for" in coda(*both, "--force", "--limit", 3).stdout
    assert "--npz is for the images of --generated" in one_line(coda(*arguments, "--npz", tmp_path / "b.npz"))
    assert "--lpips: about reconstructions" in one_line(coda(*both, "--force", "--lpips"))
