"""Layouts turned into PyTorch's, and other networks refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coda_deploy import WeightsError
from coda_deploy.weights import PUBLISHED, SETS
from coda_deploy.weights.published import ALEXNET, VGG16, digest
from tests.deploy.weights.networks import alexnet, write


@pytest.mark.parametrize(("name", "layers"), [("vgg16", VGG16), ("alexnet", ALEXNET)])
def test_layers_are_torchvisions(name: str, layers: dict[int, tuple[int, ...]]) -> None:
    import torchvision

    with torch.device("meta"):
        features = getattr(torchvision.models, name)().features.state_dict()
    assert layers == {
        int(key.split(".")[0]): tuple(tensor.shape) for key, tensor in features.items() if key.endswith("weight")
    }


def test_arrays_become_torchs(tmp_path: Path) -> None:
    content = alexnet()
    state = PUBLISHED["alexnet"].read(write(tmp_path / "alexnet.ckpt", content))
    assert list(state) == [f"features.{i}.{kind}" for i in ALEXNET for kind in ("weight", "bias")]
    kernel = content["AlexNet_0"]["Conv_1"]["kernel"]
    assert float(state["features.3.weight"][7, 5, 2, 4]) == kernel[2, 4, 5, 7]
    np.testing.assert_array_equal(state["features.10.bias"], content["AlexNet_0"]["Conv_4"]["bias"])
    # The convolution that Flax computes, one pixel of it.
    image = np.random.default_rng(1).standard_normal((11, 11, 3)).astype(np.float32)
    first = content["AlexNet_0"]["Conv_0"]
    expected = np.einsum("hwc,hwco->o", image, first["kernel"]) + first["bias"]
    found = torch.conv2d(
        torch.from_numpy(image).permute(2, 0, 1)[None], state["features.0.weight"], state["features.0.bias"]
    )
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda net: net["AlexNet_0"].pop("Conv_4"), r"2 arrays differ, the first 'AlexNet_0/Conv_4/kernel': found no"),
        (
            lambda net: net.pop("NetLinLayer_2"),
            r"'NetLinLayer_2/Conv_0/kernel': found nothing, expected \[1, 1, 384, 1",
        ),
        (lambda net: net.update(more={"x": np.ones(1)}), r"'more/x': found \[1\], expected nothing"),
        (
            lambda net: net["AlexNet_0"]["Conv_0"].update(kernel=np.ones((64, 3, 11, 11), np.float32)),
            r"'AlexNet_0/Conv_0/kernel': found \[64, 3, 11, 11\], expected \[11, 11, 3, 64\]",
        ),
        (lambda net: net.update(VGG16_0=net.pop("AlexNet_0")), r"20 arrays differ"),
        (lambda net: net.clear(), r"15 arrays differ"),
    ],
)
def test_another_network_is_rejected(tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str) -> None:
    content = alexnet()
    change(content)
    path = write(tmp_path / "alexnet.ckpt", content)
    with pytest.raises(WeightsError, match=rf"alexnet\.ckpt holds another network: {told}|{told}"):
        PUBLISHED["alexnet"].read(path)


def test_dists_reads_tensors_alone(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"alpha": torch.ones(1, 1475, 1, 1), "beta": torch.zeros(1, 1475, 1, 1)}, path)
    assert PUBLISHED["dists"].read(path)["alpha"].sum() == 1475
    torch.save({"alpha": torch.ones(1, 1475, 1, 1)}, path)
    with pytest.raises(WeightsError, match="'beta': found nothing"):
        PUBLISHED["dists"].read(path)


def test_a_digest_is_of_names_shapes_and_numbers() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    same = digest({"b": torch.ones(2), "a": torch.arange(6.0).reshape(3, 2).reshape(2, 3)})
    assert digest(state) == same
    for other in (
        {**state, "a": state["a"].reshape(3, 2)},
        {**state, "a": state["a"] + 1e-6},
        {"a": state["a"]},
        {"a": state["a"], "c": state["b"]},
        {**state, "b": torch.ones(2, dtype=torch.float64)},
    ):
        assert digest(other) != same


def test_every_set_is_of_published_weights() -> None:
    assert {name for names in SETS.values() for name in names} == PUBLISHED.keys()
