"""Continuous VAEs: diffusers' folders, the hub's cache, and everything that is neither."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from coda_deploy import ConfigError
from coda_deploy.tokenizer.vae import load_vae
from tests.tiny_tokenizers import VAES, make_vae

pytestmark = pytest.mark.numeric

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "mar"
    make_vae("mar").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(saved, tmp_path / "vae"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def same(vae: torch.nn.Module) -> bool:
    expected = make_vae("mar").state_dict()
    found = vae.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def change(folder: Path, how: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(how(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def test_a_folder(saved: Path) -> None:
    vae = load_vae(saved)
    assert same(vae)
    assert not vae.training
    assert same(load_vae(str(saved)))


def test_a_pipelines_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    folder.rename(tmp_path / "pipeline" / "vae")
    told: list[str] = []
    assert same(load_vae(tmp_path / "pipeline", told.append))
    assert told == [f"{tmp_path / 'pipeline'} is a whole pipeline; its VAE is in {tmp_path / 'pipeline' / 'vae'}"]


def test_a_pipelines_folder_with_the_vae_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline" / "unet").mkdir(parents=True)
    (tmp_path / "pipeline" / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    folder.rename(tmp_path / "pipeline" / "vae_1_0")
    told: list[str] = []
    assert same(load_vae(tmp_path / "pipeline", told.append))
    assert told[0].endswith("vae_1_0")


def test_half_precision_becomes_float32(folder: Path) -> None:
    change(folder, lambda weights: {name: tensor.bfloat16() for name, tensor in weights.items()})
    assert {tensor.dtype for tensor in load_vae(folder).state_dict().values()} == {torch.float32}


def test_attention_under_its_old_names(folder: Path) -> None:
    def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, name in old.items():
            weights = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): weights[key] for key in weights}
        return weights

    change(folder, rename)
    assert any(".query." in key for key in load_file(folder / WEIGHTS))
    assert same(load_vae(folder))


def test_weights_that_are_not_all_there(folder: Path) -> None:
    """diffusers only warns, and leaves them without a value."""
    change(folder, lambda weights: {key: weights[key] for key in weights if "conv_out" not in key})
    with pytest.raises(ConfigError, match=r"vae lack 4 tensors that its config.json asks for, first 'decoder.conv"):
        load_vae(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    name = "encoder.conv_in.bias"
    change(folder, lambda weights: {**weights, name: torch.full_like(weights[name], value)})
    with pytest.raises(ConfigError, match=f"hold NaN or infinite values, first in '{name}'"):
        load_vae(folder)


def test_a_misshapen_tensor(folder: Path) -> None:
    change(folder, lambda weights: {**weights, "decoder.conv_out.bias": torch.zeros(7)})
    with pytest.raises(ConfigError, match=r"cannot be read \(ValueError: .*decoder.conv_out.bias expected shape"):
        load_vae(folder)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_cut_file(folder: Path, size: int) -> None:
    os.truncate(folder / WEIGHTS, size)
    with pytest.raises(
        ConfigError, match=r"the AutoencoderKL in .* cannot be read \(.+\); copy its config.json and its"
    ):
        load_vae(folder)


@pytest.mark.parametrize(
    "how",
    [{"safe_serialization": False}, {"variant": "fp16"}, {"variant": "fp16", "safe_serialization": False}],
    ids=str,
)
def test_other_files_of_weights_are_read_and_told(folder: Path, how: dict[str, Any]) -> None:
    vae = load_vae(folder)
    (folder / WEIGHTS).unlink()
    vae.save_pretrained(folder, **how)
    (file,) = (path.name for path in folder.iterdir() if path.name != "config.json")
    told: list[str] = []
    assert same(load_vae(folder, told.append))
    assert told == [f"{folder} has no {WEIGHTS}: read {file}, as float32"]


def test_safetensors_come_before_pickles(folder: Path) -> None:
    vae = load_vae(folder)
    (folder / WEIGHTS).unlink()
    vae.save_pretrained(folder, variant="fp16")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    told: list[str] = []
    assert same(load_vae(folder, told.append))
    assert told[0].endswith("diffusion_pytorch_model.fp16.safetensors, as float32")


def test_a_pickle_s_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "run",)

    (folder / WEIGHTS).unlink()
    torch.save({"encoder.conv_in.weight": Touch()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_vae(folder)
    assert not (tmp_path / "run").exists()


def test_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=r"no file named diffusion_pytorch_model.safetensors found beside it"):
        load_vae(folder)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (
            {"_class_name": "UNet2DModel"},
            r"is a UNet2DModel, expected one of AutoencoderKL, .* or a torch.nn.Module",
        ),
        ({"_class_name": ["AutoencoderKL"]}, r"vae is a \['AutoencoderKL'\], expected one of"),
        ({"_class_name": "VQModel"}, "vae is a VQModel, which cannot become a tokenizer: it is discrete already"),
        ({"_class_name": "AutoencoderKLMochi"}, "a VAE of video that has no network for a single frame"),
        ({}, "vae holds a model of an unknown kind, expected a diffusers VAE"),
    ],
)
def test_another_model(folder: Path, config: dict[str, str], found: str) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=found):
        load_vae(folder)


@pytest.mark.parametrize("text", ["", "[1", "[1]", "3"])
def test_no_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="vae holds "):
        load_vae(folder)


def test_folders_without_a_vae(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.json is a file: expected a folder that save_pretrained"):
        load_vae(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty holds no diffusers VAE: it has no readable config.json"):
        load_vae(tmp_path / "empty")
    for name in ("/no/such/folder", "./a/b", "nowhere", "a/b/c", "~/vae"):
        with pytest.raises(ConfigError, match=r"there is no VAE at .*: give an existing folder, or a hub id like"):
            load_vae(name)


def test_the_hub(folder: Path, hub: Path) -> None:
    commit = "ab" * 20
    snapshot = hub / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (hub / "models--owner--name" / "refs").mkdir()
    (hub / "models--owner--name" / "refs" / "main").write_text(commit)
    shutil.copytree(folder, snapshot / "vae")
    shutil.copytree(folder, snapshot / "unet")
    (snapshot / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert same(load_vae("owner/name:vae"))
    with pytest.raises(ConfigError, match="owner/name:unet is a UNet2DModel, expected one of AutoencoderKL"):
        load_vae("owner/name:unet")
    told: list[str] = []
    assert same(load_vae("owner/name", told.append))
    assert told == ["owner/name is a whole pipeline; its VAE is owner/name:vae"]
    (snapshot / "vae" / WEIGHTS).rename(snapshot / "vae" / WEIGHTS.replace(".s", ".fp16.s"))
    assert same(load_vae("owner/name:vae", told.append))
    assert told[1] == f"owner/name:vae has no {WEIGHTS}: read {WEIGHTS.replace('.s', '.fp16.s')}, as float32"
    for name in ("owner/other", "owner/other:vae", "a b/c d"):
        with pytest.raises(ConfigError, match=r"could be loaded from the hub .*a pipeline's VAE is owner/name:vae"):
            load_vae(name)


@pytest.mark.parametrize("family", list(VAES))
def test_every_family(family: str, tmp_path: Path) -> None:
    vae = make_vae(family)
    vae.save_pretrained(tmp_path)
    found = load_vae(tmp_path)
    assert (found.config.scaling_factor, found.config.shift_factor) == (
        vae.config.scaling_factor,
        vae.config.shift_factor,
    )
    pixels = torch.zeros(1, 3, 32, 32)
    assert torch.equal(found.encode(pixels).latent_dist.mode(), vae.encode(pixels).latent_dist.mode())
