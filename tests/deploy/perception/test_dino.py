"""The five maps against timm's own intermediate outputs; the network has random weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy import WeightsError
from coda_deploy.perception import DinoFeatures
from coda_runtime.errors import InputError, MissingDependencyError
from tests.deploy.perception.published import pictures, write_dino

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("dino") / "dino.pth"
    write_dino(path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def net(file: Path) -> DinoFeatures:
    return DinoFeatures(file)


@pytest.fixture(scope="module")
def timms(file: Path) -> Any:
    """timm's model, untouched, with the same weights."""
    import timm

    model = timm.create_model("vit_small_patch16_224.dino", checkpoint_path=str(file))
    return model.eval()


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) == 5
    for map_, other in zip(found, expected, strict=True):
        torch.testing.assert_close(map_, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@torch.no_grad()
def test_maps_are_timms_tokens_plus_the_class_token(net: DinoFeatures, timms: Any) -> None:
    from timm.data import resolve_model_data_config
    from torchvision.transforms.functional import normalize

    images = pictures(2, 224, 224)
    config = resolve_model_data_config(timms)
    embedded: list[Tensor] = []
    handle = timms.blocks[0].register_forward_pre_hook(lambda module, inputs: embedded.append(inputs[0]))
    pairs = timms.forward_intermediates(
        normalize((images + 1) / 2, config["mean"], config["std"]),
        indices=[2, 5, 8, 11],
        return_prefix_tokens=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    handle.remove()
    pairs = [(embedded[0][:, 1:], embedded[0][:, :1]), *pairs]
    found = net(images)
    close(found, [(patches + first).transpose(1, 2) for patches, first in pairs])
    assert {(tuple(map_.shape), map_.dtype) for map_ in found} == {((2, 384, 196), torch.float32)}


@torch.no_grad()
def test_a_cut_reads_those_pixels(net: DinoFeatures) -> None:
    images = pictures(1, 240, 260)
    close(net(images, (16, 3)), net(images[:, :, 16:, 3:227]))
    close(net(images, (0, 36)), net(images[:, :, :224, 36:]))


@pytest.mark.parametrize("corner", [(17, 0), (0, 37), (-1, 0), (0, -1)])
def test_a_cut_outside_is_rejected(net: DinoFeatures, corner: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"224 x 224 at row .* does not lie inside images of 240 x 260; give None"):
        net(torch.zeros(1, 3, 240, 260), corner)


@torch.no_grad()
def test_larger_images_are_averaged_and_smaller_ones_interpolated(net: DinoFeatures) -> None:
    large = pictures(1, 448, 448)
    close(net(large), net(F.avg_pool2d(large, 2)))
    small = pictures(1, 64, 64)
    smooth = F.interpolate(small, size=(224, 224), mode="bicubic", align_corners=False)
    close(net(small), net(smooth))
    # What a resize must keep, however it is done.
    grey = net(torch.full((1, 3, 224, 224), 0.3))
    for size in ((64, 64), (300, 300), (300, 100), (224, 32)):
        close(net(torch.full((1, 3, *size), 0.3)), grey)


@pytest.mark.parametrize("size", [32, 64, 256])
def test_gradients_reach_every_pixel(net: DinoFeatures, size: int) -> None:
    images = pictures(1, size, size).requires_grad_()
    sum(map_.square().mean() for map_ in net(images)).backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert (images.grad != 0).float().mean() > 0.99


def test_bfloat16_autocast_is_near(net: DinoFeatures) -> None:
    images = pictures(1, 224, 224).requires_grad_()
    expected = [map_.detach() for map_ in net(images)]
    with torch.autocast("cpu", torch.bfloat16):
        found = net(images)
    sum(map_.square().mean() for map_ in found).backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    for map_, other in zip(found, expected, strict=True):
        assert map_.dtype == torch.float32
        assert float((map_.detach() - other).norm() / other.norm()) < 0.02


def test_it_is_never_trained_and_never_saved(net: DinoFeatures) -> None:
    parent = nn.ModuleDict({"dino": net, "own": nn.Linear(1, 1)}).train()
    assert not any(module.training for module in net.modules())
    assert list(parent.state_dict()) == ["own.weight", "own.bias"]
    assert len(list(parent.parameters())) == 2


def test_missing_packages_are_named_with_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r'timm and torchvision; install them: pip install .*"timm>='):
        DinoFeatures(file)


def test_missing_or_foreign_weights_are_reported(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"--dino: there is no file .*; expected the weights of DINO ViT-S/16 \(dino_"
    ):
        DinoFeatures(tmp_path / "nothing.pth", option="--dino")
    torch.save({"cls_token": torch.zeros(1, 1, 384)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth lacks 149 keys, first 'pos_embed'"):
        DinoFeatures(tmp_path / "other.pth")
