"""Distances by networks, for uint8 images: how pixels reach them, and which option is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from coda_deploy import photographs
from coda_deploy.errors import WeightsError
from coda_deploy.evaluate.learned import dists, lpips
from coda_deploy.perception import Dists, Lpips
from coda_runtime.images import fit
from tests.deploy.perception.published import vgg_state

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file(vgg_state(), path)
    return path


@pytest.fixture(scope="module")
def originals() -> NDArray[np.uint8]:
    return np.stack([fit(path, 64) for path in photographs.paths()][:3])


@pytest.fixture(scope="module")
def worse(originals: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return originals // 64 * 64


def test_lpips_sees_the_images_from_minus_one_to_one(
    vgg: Path, originals: NDArray[np.uint8], worse: NDArray[np.uint8]
) -> None:
    distance = lpips(vgg, CPU)
    mapped = originals.copy()
    mapped.flags.writeable = False  # as a mapped .npy is
    found = distance(mapped, worse)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).double() / 255 * 2 - 1 for x in (originals, worse))
    assert found == pytest.approx(Lpips(vgg)(a.float(), b.float()).detach().numpy(), rel=1e-4)
    assert found.dtype == np.float64
    assert (found > 0.01).all()
    assert distance(worse[:1], worse[:1]) == pytest.approx([0], abs=1e-6)


@pytest.mark.usefixtures("real_weights")
def test_dists_sees_the_images_from_zero_to_one(originals: NDArray[np.uint8], worse: NDArray[np.uint8]) -> None:
    found = dists(None, CPU)(originals, worse)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).double() / 255 for x in (originals, worse))
    assert found == pytest.approx(Dists()(a.float(), b.float()).detach().numpy(), rel=1e-4)
    assert (found > 0.01).all()


def test_missing_files_name_their_option(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--lpips-weights: there is no file"):
        lpips(tmp_path / "none.pth", CPU)
    with pytest.raises(WeightsError, match=r"--lpips-alex-weights: there is no file .* AlexNet for LPIPS"):
        lpips(tmp_path / "none.pth", CPU, "alex")


@pytest.mark.usefixtures("real_weights")
def test_dists_names_the_option_of_vgg(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"--lpips-weights: there is no file .* VGG-16 for DISTS"):
        dists(tmp_path / "none.pth", CPU)
