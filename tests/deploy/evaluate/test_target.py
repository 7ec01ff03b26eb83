"""A tokenizer and its bundle behind one interface, and what is told of everything else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

import coda_runtime
from coda_deploy import CodaTokenizer
from coda_deploy.errors import WeightsError
from coda_deploy.evaluate import open_target
from coda_deploy.evaluate.devices import torch_threads
from coda_deploy.tokenizer.lora import branch, lora_layers, merge_lora
from coda_deploy.tokenizer.pixels import to_pixels
from coda_runtime.errors import BackendError, ClosedError, DeviceError, InputError
from coda_runtime.machine import processors
from tests.hub_server import Hub
from tests.tiny_tokenizers import images, make

BATCH = images(3).numpy()


def test_a_tokenizer_runs_as_from_pretrained_does(tiny_folder: Path) -> None:
    tokenizer = CodaTokenizer.from_pretrained(tiny_folder)
    with open_target(tiny_folder, device="cpu") as found:
        ids = found.encode(BATCH)
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, tokenizer.encode(torch.from_numpy(BATCH)).numpy())
        np.testing.assert_array_equal(found.decode(ids), to_pixels(tokenizer.decode(torch.from_numpy(ids))).numpy())
        assert found.spec == tokenizer.spec
        about = {"path": str(tiny_folder), "kind": "tokenizer", "precision": "fp32", "backend": "torch"}
        assert found.about.to_json() == {**about, "device": "cpu"}


def test_a_bundle_runs_as_the_runtime_does(tiny_bundle: Path) -> None:
    with open_target(tiny_bundle, device="cpu", threads=1) as found, coda_runtime.load(tiny_bundle) as tok:
        ids = found.encode(BATCH)
        np.testing.assert_array_equal(ids, tok.encode(BATCH))
        np.testing.assert_array_equal(found.decode(ids), tok.decode(ids))
        assert found.continuous(BATCH) is None
        about = {"path": str(tiny_bundle), "kind": "bundle", "precision": "fp32", "backend": "onnxruntime"}
        assert found.about.to_json() == {**about, "device": "cpu"}
    with pytest.raises(ClosedError):
        found.encode(BATCH)


def test_a_bundles_precision_is_chosen(tiny_bundle: Path) -> None:
    with open_target(tiny_bundle, precision="fp16") as found:
        assert found.about.precision == "fp16"
    with pytest.raises(BackendError, match="backend is 'tensorflow'"):
        open_target(tiny_bundle, backend="tensorflow")


def test_the_continuous_vae_is_without_lora(tiny_folder: Path) -> None:
    """LoRA set to zero by hand is what it was adapted from."""
    plain = CodaTokenizer.from_pretrained(tiny_folder)
    with torch.no_grad():
        adapted = to_pixels(plain.decode_latent(plain.encode_latent(torch.from_numpy(BATCH)))).numpy()
        for layer in lora_layers(plain.vae).values():
            branch(layer)[1].zero_()
        expected = to_pixels(plain.decode_latent(plain.encode_latent(torch.from_numpy(BATCH)))).numpy()
    assert not np.array_equal(adapted, expected)
    with open_target(tiny_folder) as found:
        before = found.encode(BATCH)
        np.testing.assert_array_equal(found.continuous(BATCH), expected)
        # And it is back afterwards.
        np.testing.assert_array_equal(found.encode(BATCH), before)


def test_the_continuous_vae_of_a_merged_tokenizer_is_the_vae_as_it_is(tmp_path: Path) -> None:
    tokenizer = make(lora=None)
    tokenizer.save_pretrained(tmp_path / "merged")
    assert not lora_layers(tokenizer.vae)
    merge_lora(tokenizer.vae)
    with torch.no_grad():
        expected = to_pixels(tokenizer.decode_latent(tokenizer.encode_latent(torch.from_numpy(BATCH)))).numpy()
    with open_target(tmp_path / "merged") as found:
        np.testing.assert_array_equal(found.continuous(BATCH), expected)


def test_pytorch_has_its_settings_back(tiny_folder: Path) -> None:
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with open_target(tiny_folder, threads=threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.allow_tf32 == tf32


@pytest.mark.parametrize(("option", "value"), [("precision", "fp16"), ("backend", "onnxruntime")])
def test_what_only_a_bundle_has(tiny_folder: Path, option: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{option} is '{value}', and .* is a tokenizer, .* evaluate the bundle"):
        open_target(tiny_folder, **{option: value})  # type: ignore[arg-type]
    own = {"precision": "fp32", "backend": "torch"}[option]
    open_target(tiny_folder, **{option: own}).close()  # type: ignore[arg-type]


def test_providers_are_a_bundle_s(tiny_folder: Path, tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"providers is \['X'\], .* runs in PyTorch and has no such option"):
        open_target(tiny_folder, providers=["X"])
    with open_target(tiny_bundle, providers=["CPUExecutionProvider"]) as found:
        assert found.about.backend == "onnxruntime"


def test_a_gpu_that_is_not_there(tiny_folder: Path) -> None:
    with pytest.raises(DeviceError, match="device is 'cuda:63'"):
        open_target(tiny_folder, device="cuda:63")


def test_a_full_gpu_is_reported(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(CodaTokenizer, "encode", full)
    with open_target(tiny_folder) as found, pytest.raises(DeviceError, match="use a smaller --batch"):
        found.encode(BATCH)


def test_a_folder_with_both_is_the_tokenizer(tiny_folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "both")
    shutil.copytree(tiny_folder, tmp_path / "both", dirs_exist_ok=True)
    with open_target(tmp_path / "both") as found:
        assert found.about.kind == "tokenizer"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "does not exist: give the folder of a tokenizer or of a bundle, or a hub id"),
        ("a/b/c", "does not exist"),
        ("demo/bundel", "does not exist"),
        ("demo/tokenizer/config.json", "is a file"),
        ("empty", r"neither a tokenizer \(it has no config.json\) nor a bundle \(no manifest.json\): give the folder"),
        ("demo", "neither a tokenizer .*: name bundle or tokenizer inside it"),
    ],
)
def test_what_is_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("demo/tokenizer/config.json", "demo/bundle/manifest.json", "empty/readme"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("{}")
    with pytest.raises(InputError, match=message):
        open_target(name)


def test_hub_ids(hub: Hub, tiny_folder: Path, tiny_bundle: Path) -> None:
    """Two files of a tokenizer, or else the whole bundle."""
    hub.push_folder("owner/tokenizer", tiny_folder)
    with open_target("owner/tokenizer") as found:
        assert (found.name, found.about.kind) == ("owner/tokenizer", "tokenizer")
    hub.push_folder("owner/bundle", tiny_bundle)
    with open_target("owner/bundle") as found:
        assert (found.name, found.about.kind) == ("owner/bundle", "bundle")
    hub.commit("owner/other", "main", {"README.md": b"a model"})
    for name, told in (("owner/other", "lacks config.json"), ("owner/gone", "there is no model 'owner/gone'")):
        with pytest.raises(WeightsError, match=f"{name} is not a local folder, and could not be downloaded .*{told}"):
            open_target(name)


@pytest.mark.parametrize(("quota", "expected"), [(4.0, 1), (None, 1)])
def test_a_quota_does_not_raise_the_threads(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    """The user asked PyTorch for one, as by OMP_NUM_THREADS=1."""
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    monkeypatch.setattr(processors, "_count_cores", lambda _: 8)
    with torch_threads(1), open_target(tiny_folder, device="cpu"):
        assert torch.get_num_threads() == expected
