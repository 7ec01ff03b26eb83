"""Where weights come from, in which order, and what is said when they come from nowhere. No network: file:// is one."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from coda_deploy import WeightsError
from coda_deploy.perception import DinoFeatures, Lpips
from coda_deploy.perception.weights import find_weights, freeze
from coda_deploy.tokenizer.storage import read_state
from coda_deploy.weights import install, path_of
from tests.deploy.weights.networks import alexnet, publish

Find = Callable[..., Path]


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """``find_weights`` with empty caches under tmp_path and the hub offline."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def call(given: object = None, **changes: Any) -> Path:
        settings = {"what": "NET", "file": "net.pth", "hub": None, "url": None, "option": "--net"} | changes
        return find_weights(given, **settings)  # type: ignore[arg-type]

    return call


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cached_by_hub(tmp_path: Path, content: bytes = b"from the hub") -> None:
    """What huggingface_hub leaves after a download of own/net's model.safetensors."""
    repo = tmp_path / "hub" / "models--own--net"
    put(repo / "refs" / "main", b"0" * 40)
    put(repo / "snapshots" / ("0" * 40) / "model.safetensors", content)


HUB = ("own/net", "model.safetensors")


def test_a_given_file_is_the_only_one_looked_at(find: Find, tmp_path: Path) -> None:
    put(tmp_path / "torch" / "hub" / "checkpoints" / "net.pth")
    own = put(tmp_path / "own.pth")
    assert find(own) == find(str(own)) == own
    with pytest.raises(WeightsError, match=r"--net: there is no file .*nothing\.pth.*weights of NET \(net\.pth\)"):
        find(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="--net: there is no file"):
        find(tmp_path)


def test_torch_cache_then_hub_then_address(find: Find, tmp_path: Path) -> None:
    url = put(tmp_path / "published" / "net.pth", b"from the address").as_uri()
    cache = tmp_path / "torch" / "hub" / "checkpoints" / "net.pth"

    found = find(hub=HUB, url=url)
    assert found == cache
    assert found.read_bytes() == b"from the address"

    cache.unlink()
    cached_by_hub(tmp_path)
    assert find(hub=HUB, url=url).read_bytes() == b"from the hub"
    assert not cache.exists()

    put(cache, b"from the cache")
    assert find(hub=HUB, url=url).read_bytes() == b"from the cache"


def test_what_coda_weights_stored_comes_before_every_other_cache(
    find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "torch" / "hub" / "checkpoints" / "net.pth")
    assert find(stored="alexnet").name == "net.pth"
    install(["alexnet"], [publish(alexnet(), tmp_path, monkeypatch)])
    assert find(stored="alexnet") == path_of("alexnet")
    assert find(put(tmp_path / "own.pth"), stored="alexnet") == tmp_path / "own.pth"
    path_of("alexnet").write_bytes(b"cut")
    with pytest.raises(WeightsError, match=r"alexnet\.safetensors is truncated, damaged"):
        find(stored="alexnet")


def test_the_hash_in_a_name_is_checked(find: Find, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    url = put(tmp_path / "published").as_uri()
    assert find(file=f"net-{digest[:8]}.pth", url=url).read_bytes() == b"weights"
    with pytest.raises(WeightsError, match=r"RuntimeError"):
        find(file="net-00000000.pth", url=url)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == [f"net-{digest[:8]}.pth"]


def test_what_is_said_when_nothing_works(find: Find, tmp_path: Path) -> None:
    cache = tmp_path / "torch" / "hub" / "checkpoints" / "net.pth"
    url = (tmp_path / "nowhere.pth").as_uri()
    with pytest.raises(WeightsError) as caught:
        find(hub=HUB, url=url)
    assert str(caught.value) == (
        f"the weights of NET are missing: {cache} is not there, and could not be downloaded from own/net on the "
        f"Hugging Face Hub (LocalEntryNotFoundError) nor from {url} (URLError); download {url} and put it there, or "
        "name the file with --net"
    )
    with pytest.raises(WeightsError, match=r"download https://huggingface.co/own/net/resolve/main/model.safetensors"):
        find(hub=HUB)
    with pytest.raises(WeightsError, match=r"net.pth is not there; download where it is published"):
        find()


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            Lpips,
            r"VGG-16 for LPIPS are missing: neither .*coda-deploy/weights/vgg16\.safetensors nor .*checkpoints/"
            r"vgg16-397923af\.pth is there, .*timm/vgg16\.tv_in1k on the .*URLError\); run `coda weights lpips`, "
            r"which fetches them, or name the file with lpips_weights$",
        ),
        (
            DinoFeatures,
            r"DINO ViT-S/16 are missing: .*checkpoints/dino_deitsmall16_pretrain\.pth is not there, .*"
            r"timm/vit_small_patch16_224\.dino on the .*URLError\); download https://dl\.fbaipublicfiles\.com/dino/"
            r"dino_deitsmall16_pretrain/dino_deitsmall16_pretrain\.pth .* with dino_weights$",
        ),
    ],
)
def test_what_each_network_says_without_a_network(
    find: Find, monkeypatch: pytest.MonkeyPatch, network: type[nn.Module], told: str
) -> None:
    def reject(url: str, *_: object, **__: object) -> None:
        raise URLError(f"no route to {url}")

    monkeypatch.setattr(torch.hub, "download_url_to_file", reject)
    with pytest.raises(WeightsError, match=told):
        network()


def test_a_cache_that_cannot_be_made_is_reported(find: Find, tmp_path: Path) -> None:
    put(tmp_path / "torch")
    with pytest.raises(WeightsError, match=r"\(FileExistsError|\(NotADirectoryError"):
        find(url=put(tmp_path / "published").as_uri())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pytorch_files(tmp_path: Path, legacy: bool) -> None:
    state = {"a.weight": torch.randn(3, 2), "count": torch.tensor(7), "half": torch.randn(4).half()}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    found = read_state(tmp_path / "net.pth")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_safetensors_files(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 2), "half": torch.randn(4).bfloat16()}
    save_file(state, tmp_path / "net.safetensors")
    found = read_state(tmp_path / "net.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@given(share=st.floats(0, 0.98))
def test_a_cut_file_is_rejected(tmp_path_factory: pytest.TempPathFactory, kind: str, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / ("net.safetensors" if kind == "safetensors" else "net.pth")
    state = {"a": torch.arange(100.0), "b": torch.ones(7)}
    if kind == "safetensors":
        path.write_bytes(save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        WeightsError, match=r"net\.\w+ is truncated, damaged, or holds more than tensors \(\w+\): download"
    ):
        read_state(path)


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("content", [Hostile(), {"a": Hostile()}, {"a": torch.ones(1), "b": nn.Linear(1, 1)}])
def test_a_file_that_holds_code_is_rejected_and_not_run(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_state(tmp_path / "net.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="holds more than tensors"):
        read_state(tmp_path / "plain.pth")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}, {"epoch": 3}])
def test_a_file_of_another_form_is_rejected(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth is not a plain state dict of tensors, found (dict|list)"):
        read_state(tmp_path / "net.pth")


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(3, 2)
        self.frozen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x)


def test_frozen_parts_compute_the_same_and_are_neither_trained_nor_saved() -> None:
    parent, x = Parent(), torch.randn(5, 3)
    expected = parent.eval()(x).detach()
    freeze(parent.train().frozen)
    assert torch.equal(parent(x), expected)
    assert [name for name, _ in parent.named_parameters()] == ["own.weight", "own.bias"]
    assert list(parent.state_dict()) == ["own.weight", "own.bias"]
    parent.load_state_dict(parent.state_dict())
    assert {tensor.dtype for tensor in parent.double().frozen.buffers() if tensor.is_floating_point()} == {torch.double}


def test_freeze_leaves_no_parameter_behind() -> None:
    parent = Parent()
    freeze(parent)
    assert list(parent.parameters()) == []
    assert len(list(parent.buffers())) == 9
