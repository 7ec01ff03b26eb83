"""`coda eval`: in a process of its own and in this one, what it writes, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from coda_deploy import photographs
from coda_deploy.evaluate import Inception, target
from coda_runtime.images import fit
from tests.deploy.cli.command import coda, one_line
from tests.deploy.evaluate.networks import inception_state
from tests.deploy.perception.published import vgg_state
from tests.tiny_tokenizers import make

QUICK = ("--skip", "ssim", "--skip", "ms-ssim", "--skip", "vae")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs; not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    for name, path in zip(photographs.NAMES[:4], photographs.paths(), strict=False):
        Image.fromarray(fit(path, 48)).save(folder / f"{name}.png")
    return folder


def figures(*arguments: object) -> dict[str, Any]:
    result = coda("eval", *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return dict(json.loads(result.stdout))


def unreachable(*_: object, **__: object) -> NoReturn:
    raise OSError("no network")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be encoded."""

    def encode(*_: object) -> NoReturn:
        raise AssertionError("an image was encoded")

    monkeypatch.setattr(target.TokenizerTarget, "encode", encode)


def test_in_a_process_of_its_own(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "coda_runtime.cli", "eval", tiny_folder, "--data", photos]
    options = ["--report", "out/page.html", "--per-image", "out/images.jsonl", "--workers", "1", "--batch", "2"]
    done = subprocess.run(
        [*command, *options, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["num_images"] == 4
    assert found["subject"]["kind"] == "tokenizer"
    assert found["vae_psnr"] > 0
    assert found["spec"]["scales"] == [1, 2, 3, 5, 8]
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<img") == 16
    lines = [json.loads(line) for line in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    assert [Path(line["name"]).stem for line in lines] == list(photographs.NAMES[:4])
    assert np.mean([line["psnr"] for line in lines]) == pytest.approx(found["psnr"])
    assert np.mean([line["vae_ssim"] for line in lines]) == pytest.approx(found["vae_ssim"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.jsonl", "page.html"]


def test_text(tiny_folder: Path, photos: Path) -> None:
    result = coda("eval", tiny_folder, "--data", photos)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].endswith("tokenizer in fp32 on torch (cpu), 4 images of 32 × 32")
    assert lines[2].split() == ["tokens", "continuous", "VAE", "better", "is"]
    assert lines[3].startswith("PSNR ")
    assert lines[4].startswith("SSIM ")
    assert any(line.startswith("8 × 8") for line in lines)
    assert lines[-1] == "0.6035 bits per pixel"


def test_a_bundle_against_its_tokenizer(tiny_folder: Path, tiny_bundle: Path, photos: Path) -> None:
    bundle = figures(tiny_bundle, "--data", photos, "--against", tiny_folder, "--threads", 1)
    folder = figures(tiny_folder, "--data", photos)
    assert bundle["token_agreement"] == 1
    assert [scale["agreement"] for scale in bundle["scales"]] == [1] * 5
    assert bundle["psnr"] == pytest.approx(folder["psnr"], abs=0.01)
    assert bundle["codebook_perplexity"] == folder["codebook_perplexity"]
    assert bundle["vae_psnr"] is None
    for key in ("psnr", "ssim", "ms_ssim"):
        quality, difference = (bundle["against"][of][key] for of in ("quality", "difference"))
        assert quality == pytest.approx(folder[key], abs=1e-3)
        assert difference == bundle[key] - quality
    assert abs(bundle["against"]["difference"]["psnr"]) < 0.01
    half = figures(tiny_bundle, "--data", photos, "--precision", "fp16", "--against", tiny_bundle, *QUICK)
    assert half["subject"]["precision"] == "fp16"
    assert half["against"]["precision"] == "fp32"
    assert 0.5 < half["token_agreement"] <= 1
    text = coda("eval", tiny_bundle, "--data", photos, "--against", tiny_folder, *QUICK)
    assert "equal, free-running" in text.stdout
    assert text.stdout.splitlines()[2].split() == ["tokens", "compared", "with", "difference", "better", "is"]
    (row,) = (line.split() for line in text.stdout.splitlines() if line.startswith("all "))
    assert row[-2:] == ["100", "%"]


def test_lpips_and_rfid(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    save_file(vgg_state(), tmp_path / "vgg.safetensors")
    pixels = np.stack([fit(path, 32) for path in sorted(photos.iterdir())])
    torch.save(inception_state(torch.from_numpy(pixels).permute(0, 3, 1, 2)), tmp_path / "inception.pth")
    weights = ["--lpips-weights", tmp_path / "vgg.safetensors", "--inception-weights", tmp_path / "inception.pth"]
    command = (tiny_folder, "--data", photos, *QUICK, *weights, "--per-image", tmp_path / "images.jsonl")
    found = figures(*command)
    assert found["network_device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    lines = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert lines[0].keys() == {"name", "psnr", "lpips"}
    assert found["lpips"] == pytest.approx(np.mean([line["lpips"] for line in lines]))
    assert "rFID over 4 images is biased upwards" in found["warnings"][0]
    # tr sqrt(A'A B'B) is the sum of the singular values of A B'.
    network = Inception(tmp_path / "inception.pth", torch.device("cpu"))
    with target.open_target(tiny_folder, device="cpu") as tokenizer:
        features = [network(pixels), network(tokenizer.decode(tokenizer.encode(pixels)))]
    a, b = ((of - of.mean(0)) / np.sqrt(3) for of in features)
    means = features[0].mean(0) - features[1].mean(0)
    mixed = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    assert found["rfid"] == pytest.approx((means**2).sum() + (a**2).sum() + (b**2).sum() - 2 * mixed, rel=1e-3)


@pytest.mark.usefixtures("real_weights")
def test_every_metric_with_the_published_weights(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    found = figures(tiny_folder, "--data", photos, "--all", "--skip", "vae", "--per-image", tmp_path / "images.jsonl")
    keys = ["psnr", "ssim", "ms_ssim", "lpips", "lpips_alex", "dists", "ssimulacra2"]
    lines = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["name", *keys]
    for key in keys:
        assert found[key] == pytest.approx(np.mean([line[key] for line in lines]))
    assert found["ms_ssim_scales"] == 2
    assert found["rfid"] is None
    assert found["not_computed"]["rfid"] == "Inception's weights are not available: name them with --inception-weights"


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("option", "command"), [("--lpips", "lpips"), ("--dists", "dists"), ("--all", "lpips")])
def test_missing_weights_name_the_one_command(
    tiny_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, command: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert f"run `coda weights {command}`, which fetches them" in one_line(
        coda("eval", tiny_folder, "--data", photos, option)
    )


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("option", ["--lpips-weights", "--inception-weights"])
def test_missing_weights_fail_before_anything_is_read(
    tiny_folder: Path, photos: Path, tmp_path: Path, option: str
) -> None:
    result = coda(
        "eval", tiny_folder, "--data", photos, option, tmp_path / "none.pth", "--report", tmp_path / "new" / "r.html"
    )
    assert f"{option}: there is no file {tmp_path / 'none.pth'}" in one_line(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unread")
def test_weights_that_are_nowhere(
    tiny_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    line = one_line(coda("eval", tiny_folder, "--data", photos, "--rfid"))
    assert "the weights of rFID's Inception are missing" in line
    assert "https://github.com/toshas/torch-fidelity/releases" in line
    assert line.endswith("or name the file with --inception-weights")


@pytest.mark.usefixtures("unread")
def test_a_missing_package_names_its_extra(tiny_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert 'pip install "' in one_line(coda("eval", tiny_folder, "--data", photos))
    monkeypatch.undo()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}", "--data", "{photos}"], "is neither a tokenizer (it has no config.json) nor a bundle"),
        (["{tmp}/nowhere", "--data", "{photos}"], "nowhere does not exist"),
        (["{tiny}", "--data", "{tmp}"], "is empty; expected images"),
        (["{tiny}", "--data", "{tmp}/nowhere"], "nowhere"),
        (["{tiny}", "--data", "{photos}", "--device", "cuda:63"], "device is 'cuda:63'"),
        (["{tiny}", "--data", "{photos}", "--device", "gpu"], "device is 'gpu'"),
        (["{tiny}", "--data", "{photos}", "--precision", "fp16"], "precision is 'fp16', and"),
        (["{tiny}", "--data", "{photos}", "--against", "{tmp}/nowhere"], "nowhere does not exist"),
        (["{tiny}", "--data", "{photos}", "--report", "{tmp}"], "is a folder; expected the name of a file"),
        (["{tiny}", "--data", "{photos}", "--report", "{photos}/cat.png"], "looks like image data, not a result"),
        (["{tiny}", "--data", "{photos}", "--report", "{tmp}/o", "--per-image", "{tmp}/o"], "both name"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(
    tiny_folder: Path, photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = [text.format(tiny=tiny_folder, photos=photos, tmp=tmp_path) for text in arguments]
    before = (photos / "cat.png").read_bytes()
    assert message in one_line(coda("eval", *given))
    assert list(tmp_path.iterdir()) == []
    assert (photos / "cat.png").read_bytes() == before


@pytest.mark.usefixtures("unread")
def test_another_spec_names_the_key(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    make(vocab_size=32).save_pretrained(tmp_path / "other")
    line = one_line(coda("eval", tiny_folder, "--data", photos, "--against", tmp_path / "other"))
    assert f"vocab_size is 64 in {tiny_folder} and 32 in {tmp_path / 'other'}" in line


def test_a_failure_half_way_leaves_the_older_report(
    tiny_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise target.DeviceError("the GPU ran out of memory on this batch: use a smaller --batch")

    monkeypatch.setattr(target.TokenizerTarget, "decode", fail)
    (tmp_path / "r.html").write_text("older")
    run = ("eval", tiny_folder, "--data", photos, "--report", tmp_path / "r.html")
    assert "smaller --batch" in one_line(coda(*run, "--force"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"r.html": "older"}


@pytest.mark.parametrize("option", ["--report", "--per-image"])
def test_a_result_is_replaced_on_request_alone(tiny_folder: Path, photos: Path, tmp_path: Path, option: str) -> None:
    file = tmp_path / "result"
    file.write_text("older")
    run = ("eval", tiny_folder, "--data", photos, *QUICK, option, file)
    assert f"{file} exists already; choose another {option}, or replace it with --force" in one_line(coda(*run))
    assert file.read_text() == "older"
    assert coda(*run, "--force").exit_code == 0
    assert "psnr" in file.read_text().lower()


def test_skipped_images_are_reported(tiny_folder: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "cat.png").write_bytes((photos / "cat.png").read_bytes())
    result = coda("eval", tiny_folder, "--data", tmp_path, *QUICK)
    assert result.exit_code == 0, result.output
    assert "1 image of 32 × 32, 1 skipped" in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: 1 image skipped, the first: ")
    assert "bad.png" in line


@pytest.mark.parametrize(
    "arguments",
    [[], ["tokenizer"], ["tokenizer", "--data", "x", "--limit", "0"], ["tokenizer", "--data", "x", "--skip", "psnr"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert coda("eval", *arguments).exit_code == 2


def test_help_has_an_example() -> None:
    result = coda("eval", "--help")
    assert result.exit_code == 0
    assert "coda eval tokenizer/ --data photos/" in result.stdout.split("Example:")[1]
