"""What a user's options become: which figures, on which networks, and what fails first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from coda_deploy.errors import WeightsError
from coda_deploy.evaluate import Choice, make_metrics
from coda_runtime.errors import MissingDependencyError
from tests.deploy.perception.published import vgg_state


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> NoReturn:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_by_default_what_needs_no_weights_and_is_quick() -> None:
    metrics = make_metrics(Choice(), "cpu")
    assert set(metrics.comparisons) == {"psnr", "ssim", "ms_ssim"}
    assert metrics.inception is None
    assert metrics.continuous
    assert metrics.network_device is None


def test_what_is_skipped() -> None:
    metrics = make_metrics(Choice(skip=("ssim", "ms-ssim", "vae")), "cpu")
    assert set(metrics.comparisons) == {"psnr"}
    assert not metrics.continuous


@pytest.mark.usefixtures("real_weights")
def test_all() -> None:
    metrics = make_metrics(Choice(every=True), "cpu")
    assert set(metrics.comparisons) == {"psnr", "ssim", "ms_ssim", "lpips", "lpips_alex", "dists", "ssimulacra2"}
    assert metrics.inception is None  # no command brings its weights
    assert metrics.reasons == {"rfid": "Inception's weights are not available: name them with --inception-weights"}
    assert metrics.network_device == "cpu"


def test_a_file_of_weights_asks_for_its_metric(tmp_path: Path) -> None:
    save_file(vgg_state(), tmp_path / "vgg.safetensors")
    metrics = make_metrics(Choice(lpips_weights=tmp_path / "vgg.safetensors"), "cpu")
    assert set(metrics.comparisons) == {"psnr", "ssim", "ms_ssim", "lpips"}
    for choice in (Choice(lpips_alex_weights=tmp_path / "none"), Choice(inception_weights=tmp_path / "none")):
        with pytest.raises(WeightsError, match="there is no file"):
            make_metrics(choice, "cpu")


@pytest.mark.usefixtures("real_weights")
def test_a_file_of_vgg_may_be_for_dists_alone(tmp_path: Path) -> None:
    save_file(vgg_state(), tmp_path / "vgg.safetensors")
    metrics = make_metrics(Choice(dists=True, lpips_weights=tmp_path / "vgg.safetensors"), "cpu")
    assert set(metrics.comparisons) == {"psnr", "ssim", "ms_ssim", "dists"}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice(lpips=True), "VGG-16 for LPIPS are missing: .* run `coda weights lpips`, which fetches them, or name"),
        (
            Choice(lpips_alex=True),
            "AlexNet for LPIPS are missing: .* run `coda weights lpips`, .*--lpips-alex-weights$",
        ),
        (Choice(dists=True), "DISTS are missing: .* run `coda weights dists`"),
        (Choice(every=True), "run `coda weights lpips`"),
        (Choice(rfid=True), "rFID's Inception are missing: .* or name the file with --inception-weights$"),
    ],
)
def test_missing_weights_name_the_one_command(choice: Choice, told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        make_metrics(choice, "cpu")


@pytest.mark.parametrize(
    ("module", "package", "choice"),
    [
        ("skimage", "scikit-image", Choice()),
        ("torchmetrics", "torchmetrics", Choice(skip=("ssim",))),
        ("ssimulacra2", "ssimulacra2", Choice(ssimulacra2=True)),
        ("lpips", "lpips", Choice(lpips=True)),
        ("torch_fidelity", "torch-fidelity", Choice(rfid=True)),
    ],
)
def test_missing_packages_are_named(module: str, package: str, choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf'pip install .*"{package}>='):
        make_metrics(choice, "cpu")
