"""DISTS against the package of its authors, on photographs, with the published weights; and what is missing told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coda_deploy import WeightsError, photographs
from coda_deploy.perception import Dists
from coda_deploy.weights import read_stored
from coda_runtime.images import fit

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("real_weights")]


def unit(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The package's network; it would download VGG-16 and unpickle the rest."""
    import torchvision
    from DISTS_pytorch import DISTS

    def pretrained(*_: object, **__: object) -> nn.Module:
        model: nn.Module = build()
        features = {key.removeprefix("features."): tensor for key, tensor in read_stored("vgg16").items()}
        model.get_submodule("features").load_state_dict(features)
        return model

    build = torchvision.models.vgg16
    monkeypatch.setattr(torchvision.models, "vgg16", pretrained)
    model: nn.Module = DISTS(load_weights=False)
    for name, tensor in read_stored("dists").items():
        model.get_parameter(name).data = tensor
    return model


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 50])
def test_value_on_photographs_is_that_of_the_package(theirs: nn.Module, size: int) -> None:
    originals = np.stack([fit(path, size) for path in photographs.paths()])
    ours, a = Dists(), unit(originals)
    for others in (originals // 64 * 64, originals[::-1]):
        b = unit(others)
        expected = theirs(a, b)
        assert float(expected.min()) > 0.05
        torch.testing.assert_close(ours(a, b), expected, rtol=0, atol=1e-5)
    assert ours(a, a).tolist() == pytest.approx([0] * 8, abs=1e-5)


def test_it_is_never_trained_and_never_saved() -> None:
    parent = nn.ModuleDict({"dists": Dists(), "own": nn.Linear(1, 1)})
    assert list(parent.state_dict()) == ["own.weight", "own.bias"]
    assert len(list(parent.parameters())) == 2


def test_another_vgg_is_rejected(tmp_path: Path) -> None:
    state = read_stored("vgg16")
    save_file({**state, "features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "vgg.safetensors")
    with pytest.raises(WeightsError, match=r"'features.0.weight' has shape \[64, 3, 5, 5\], expected \[64, 3, 3, 3\]"):
        Dists(tmp_path / "vgg.safetensors")


def test_missing_weights_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"weights of DISTS are missing: .*dists\.safetensors is not there; run `coda w"
    ):
        Dists()
