"""LPIPS against its definition, written out over plain functions, over a VGG-16 of random weights; and against the
package ``lpips`` on photographs, with the weights that were published."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from coda_deploy import WeightsError, photographs
from coda_deploy.perception import Lpips
from coda_deploy.perception.lpips import Net
from coda_deploy.tokenizer.pixels import from_pixels
from coda_deploy.weights import read_stored
from coda_runtime.errors import MissingDependencyError
from coda_runtime.images import fit
from tests.deploy.perception.published import pictures, vgg_state

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return vgg_state()


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("vgg") / "model.safetensors"
    save_file(state, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def net(file: Path) -> Lpips:
    return Lpips(file)


def features(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """After the last ReLU of each of VGG-16's five stages; its convolutions are numbered with ReLUs and pools."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (images - shift.view(3, 1, 1)) / scale.view(3, 1, 1)
    found = []
    for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        x = F.max_pool2d(x, 2) if found else x
        for layer in stage:
            x = F.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1).relu()
        found.append(x)
    return found


def by_definition(state: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    import lpips

    linear = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth", map_location="cpu", weights_only=True
    )
    total = torch.zeros(len(a))
    for stage, (x, y) in enumerate(zip(features(state, a), features(state, b), strict=True)):
        squares = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
        total = total + torch.einsum("bchw,c->bhw", squares, linear[f"lin{stage}.model.1.weight"].flatten()).mean(
            (1, 2)
        )
    return total


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (16, 16)])
def test_value_and_gradients_are_those_of_the_definition(
    net: Lpips, state: dict[str, Tensor], size: tuple[int, int]
) -> None:
    a, b = pictures(3, *size, seed=1), pictures(3, *size, seed=2)
    results = []
    for function in (net, lambda x, y: by_definition(state, x, y)):
        inputs = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = function(*inputs)
        results.append((value, *torch.autograd.grad(value.sum(), inputs)))
    (value, *gradients), (expected, *expected_gradients) = results
    assert value.shape == (3,)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.mark.usefixtures("real_weights")
@pytest.mark.parametrize(("net", "name"), [("vgg", "vgg16"), ("alex", "alexnet")])
@torch.no_grad()
def test_value_on_photographs_is_that_of_the_package(net: Net, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own network, as its users build it: torchvision's, with torchvision's weights."""
    import lpips
    import torchvision

    def pretrained(*_: object, **__: object) -> nn.Module:
        model: nn.Module = build()
        features = {key.removeprefix("features."): tensor for key, tensor in read_stored(name).items()}
        model.get_submodule("features").load_state_dict(features)
        return model

    build = getattr(torchvision.models, name)
    monkeypatch.setattr(torchvision.models, name, pretrained)
    theirs = lpips.LPIPS(net=net, verbose=False)
    originals = np.stack([fit(path, 64) for path in photographs.paths()])
    a, *others = (
        from_pixels(torch.from_numpy(images)) for images in (originals, originals // 64 * 64, originals[::-1].copy())
    )
    ours = Lpips(net=net)
    for b in others:
        expected = theirs(a, b).flatten()
        assert float(expected.min()) > 0.01
        torch.testing.assert_close(ours(a, b), expected, rtol=0, atol=1e-5)


def test_equal_images_have_no_distance_and_others_some(net: Lpips) -> None:
    a = pictures(2, 32, 32)
    assert net(a, a).tolist() == [0, 0]
    near, far = net(a, a + 0.05 * torch.randn_like(a)), net(a, -a)
    assert (near > 0).all()
    assert (far > near).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_silent_positions_give_finite_gradients(net: Lpips, bf16: bool) -> None:
    """The package's square root of a norm of 0 has the gradient NaN; that of the ReLU before it drops it."""
    net = copy.deepcopy(net)
    bias = next(tensor for name, tensor in net.named_buffers() if name.endswith("slice1.2.bias"))
    bias.sub_(3)
    a, b = pictures(1, 32, 32), pictures(1, 32, 32, seed=1).requires_grad_()
    first = net.net.net(net.net.scaling_layer(b))[0]
    silent = (first == 0).all(1)
    assert 0 < int(silent.sum()) < silent.numel()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        distance = net(a, b)
    distance.sum().backward()
    assert b.grad is not None
    assert torch.isfinite(b.grad).all()
    assert b.grad.abs().max() > 0


def test_bfloat16_autocast_is_near(net: Lpips) -> None:
    a, b = pictures(2, 32, 32), pictures(2, 32, 32, seed=1).requires_grad_()
    expected = net(a, b)
    (gradient,) = torch.autograd.grad(expected.sum(), b)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(a, b)
    found.sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)
    assert b.grad is not None
    assert F.cosine_similarity(b.grad.flatten(), gradient.flatten(), 0) > 0.98


def test_it_is_never_trained_and_never_saved(net: Lpips) -> None:
    parent = nn.ModuleDict({"lpips": net, "own": nn.Linear(1, 1)}).train()
    assert not any(module.training for module in net.modules())
    assert list(parent.state_dict()) == ["own.weight", "own.bias"]
    assert len(list(parent.parameters())) == 2
    parent.load_state_dict(parent.state_dict())
    assert not any(tensor.requires_grad or tensor.is_meta for tensor in net.buffers())


def test_it_is_built_in_silence_and_draws_no_random_number(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    Lpips(file)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_missing_packages_are_named_with_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    message = r'lpips and torchvision; .*pip install .*"lpips>=0\.1\.4" "torchvision==0\.'
    with pytest.raises(MissingDependencyError, match=message) as caught:
        Lpips(file)
    assert caught.value.extra == "train"
    with pytest.raises(MissingDependencyError) as caught:
        Lpips(file, extra="eval")
    assert caught.value.extra == "eval"


def test_missing_weights_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"--lpips: there is no file .*; expected the weights of VGG-16 for LPIPS \("
    ):
        Lpips(tmp_path / "nothing.pth", option="--lpips")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("features.28.bias"), r"lacks 1 key, first 'features\.28\.bias'"),
        (
            lambda state: state.update({"features.0.weight": torch.ones(64, 3, 5, 5)}),
            r"\[64, 3, 5, 5\], expected \[64,",
        ),
        (lambda state: state.clear(), r"lacks 26 keys"),
        (lambda state: state.update({"features.0.bias": torch.full((64,), torch.nan)}), "NaN"),
    ],
)
def test_another_networks_weights_are_rejected(
    state: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], object], told: str
) -> None:
    other = dict(state)
    change(other)
    # A view of one number stands in for each large weight: the file stays small.
    small = {name: t if t.ndim < 2 else torch.zeros(()).expand(t.shape) for name, t in other.items()}
    torch.save(small, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=told):
        Lpips(tmp_path / "other.pth")
