"""A whole evaluation: against plain loops over the same tokenizer, and where figures cannot be had."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from coda_deploy import CodaTokenizer, photographs
from coda_deploy.data import DataError, open_source
from coda_deploy.evaluate import Evaluation, Metrics, evaluate, open_target
from coda_deploy.evaluate.similarity import ssim_per_image
from coda_deploy.tokenizer.pixels import to_pixels
from coda_runtime.errors import InputError
from coda_runtime.images import fit
from tests.deploy.evaluate.echo import SPEC, Echo
from tests.tiny_tokenizers import make

PHOTOGRAPHS = Path(photographs.__file__).parent
QUICK = Metrics(ssim=False, ms_ssim=False, continuous=False)


@pytest.fixture(scope="module")
def originals() -> NDArray[np.uint8]:
    return np.stack([fit(path, 32) for path in photographs.paths()])


@pytest.fixture(scope="module")
def found(tiny_folder: Path) -> Evaluation:
    with open_target(tiny_folder, device="cpu") as target:
        return evaluate(target, open_source(PHOTOGRAPHS), data="photographs", batch_size=3, show=2)


def noisy(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images // 16 * 16


def test_metrics_are_those_of_a_plain_loop(found: Evaluation, originals: NDArray[np.uint8], tiny_folder: Path) -> None:
    tokenizer = CodaTokenizer.from_pretrained(tiny_folder)
    ids = np.concatenate([tokenizer.encode(torch.from_numpy(image[None])).numpy() for image in originals])
    pictures = np.concatenate([to_pixels(tokenizer.decode(torch.from_numpy(row[None]))).numpy() for row in ids])
    scores = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(originals, pictures, strict=True)]
    assert found.scores["psnr"] == pytest.approx(scores, abs=0.02)
    assert found.tokens.psnr == pytest.approx(np.mean(scores), abs=0.01)
    assert found.tokens.ssim == pytest.approx(ssim_per_image(originals, pictures).mean(), abs=1e-3)
    assert found.codebook_utilization == len(np.unique(ids)) / 64
    share = np.bincount(ids.ravel()) / ids.size
    assert found.codebook_perplexity == pytest.approx(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
    assert found.bits_per_pixel == pytest.approx(103 * 6 / 32**2)
    assert found.num_tokens == 8 * 103
    starts = np.cumsum([0, 1, 4, 9, 25, 64])
    for scale, side, start, stop in zip(found.scales, (1, 2, 3, 5, 8), starts, starts[1:], strict=False):
        assert (scale.side, scale.tokens) == (side, 8 * side * side)
        assert scale.utilization == len(np.unique(ids[:, start:stop])) / 64
    assert [Path(name).stem for name in found.names] == list(photographs.NAMES)


def test_the_continuous_vae_is_measured_too(found: Evaluation, originals: NDArray[np.uint8], tiny_folder: Path) -> None:
    with open_target(tiny_folder, device="cpu") as target:
        continuous = target.continuous(originals)
    assert continuous is not None
    assert found.continuous is not None
    scores = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(originals, continuous, strict=True)]
    assert found.continuous.psnr == pytest.approx(np.mean(scores), abs=0.01)
    assert found.to_json()["vae_psnr"] == found.continuous.psnr


def test_json_has_every_key(found: Evaluation) -> None:
    figures = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(figures) == {
        "num_images", "num_identical", "num_skipped", "num_tokens", "codebook_utilization", "codebook_perplexity",
        "psnr", "ssim", "ms_ssim", "lpips", "lpips_alex", "dists", "ssimulacra2", "rfid", "ms_ssim_scales",
        "vae_psnr", "vae_ssim", "vae_ms_ssim", "vae_lpips", "vae_lpips_alex", "vae_dists", "vae_ssimulacra2",
        "vae_rfid", "bits_per_pixel", "token_agreement", "scales", "not_computed", "warnings", "data", "subject",
        "against", "network_device", "spec", "skipped", "color", "num_profiles_ignored",
    }  # fmt: skip
    assert figures["num_images"] == 8
    assert figures["spec"]["variant"] == "tiny_sd"
    assert figures["scales"][1].keys() == {"side", "tokens", "utilization", "perplexity", "agreement"}
    missing = {key for key, value in figures.items() if value is None and key not in ("against", "network_device")}
    assert set(figures["not_computed"]) == missing
    learned = {"lpips", "lpips_alex", "dists", "ssimulacra2", "rfid"}
    assert missing == {"token_agreement"} | learned | {f"vae_{key}" for key in learned}
    assert figures["not_computed"]["rfid"] == "ask for it with --rfid"


def test_each_image_has_its_line(found: Evaluation) -> None:
    lines = list(found.per_image())
    assert len(lines) == 8
    assert lines[3].keys() == {"name", "psnr", "ssim", "ms_ssim", "vae_psnr", "vae_ssim", "vae_ms_ssim"}
    assert lines[3]["name"].endswith("dandelion.jpg")
    assert lines[3]["psnr"] == found.scores["psnr"][3]


def test_worst_and_best_are_the_ends(found: Evaluation, originals: NDArray[np.uint8]) -> None:
    order = np.argsort(found.scores["psnr"])
    assert [shown.name for shown in found.worst] == [found.names[i] for i in order[:2]]
    assert [shown.name for shown in found.best] == [found.names[i] for i in order[::-1][:2]]
    np.testing.assert_array_equal(found.worst[0].original, originals[order[0]])
    again = peak_signal_noise_ratio(found.best[1].original, found.best[1].tokens, data_range=255)
    assert again == pytest.approx(found.best[1].psnr)


def test_folder_and_bundle_have_the_same_metrics(found: Evaluation, tiny_folder: Path, tiny_bundle: Path) -> None:
    with open_target(tiny_bundle, device="cpu") as bundle, open_target(tiny_folder, device="cpu") as folder:
        other = evaluate(bundle, open_source(PHOTOGRAPHS), against=folder)
    assert other.token_agreement == 1
    assert other.tokens.psnr == pytest.approx(found.tokens.psnr, abs=0.01)
    assert other.tokens.ssim == pytest.approx(found.tokens.ssim, abs=1e-3)
    assert other.codebook_perplexity == found.codebook_perplexity
    assert [scale.utilization for scale in other.scales] == [scale.utilization for scale in found.scales]
    assert other.continuous is None
    assert other.to_json()["not_computed"]["vae_psnr"].startswith("a bundle does not hold it")
    assert other.to_json()["against"]["kind"] == "tokenizer"


def test_tokens_of_another_tokenizer(tiny_folder: Path, tmp_path: Path, originals: NDArray[np.uint8]) -> None:
    make(seed=3).save_pretrained(tmp_path / "other")
    with open_target(tiny_folder) as one, open_target(tmp_path / "other") as other:
        same = evaluate(one, open_source(PHOTOGRAPHS), metrics=QUICK, against=one)
        found = evaluate(one, open_source(PHOTOGRAPHS), metrics=QUICK, against=other)
        equal = one.encode(originals) == other.encode(originals)
    assert same.token_agreement == 1
    assert found.token_agreement == equal.mean() < 0.5
    assert [scale.agreement for scale in found.scales] == pytest.approx(
        [equal[:, a:b].mean() for a, b in ((0, 1), (1, 5), (5, 14), (14, 39), (39, 103))]
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vocab_size", 32, "vocab_size is 16 in echo and 32 in other"),
        ("scales", (1, 3, 4), r"scales is \[1, 2, 4\] in echo and \[1, 3, 4\] in other"),
        ("latent_channels", 5, "latent_channels"),
    ],
)
def test_another_spec_is_rejected_before_an_image_is_read(key: str, value: object, words: str) -> None:
    class Unread:
        def __len__(self) -> int:
            raise AssertionError

    other = Echo(spec=dataclasses.replace(SPEC, **{key: value}), name="other")
    with pytest.raises(InputError, match=f"their tokens cannot be compared: {words}"):
        evaluate(Echo(), Unread(), against=other)  # type: ignore[arg-type]


def test_the_name_of_a_variant_may_differ(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)
    other = Echo(spec=dataclasses.replace(SPEC, variant="renamed"), shift=1)
    found = evaluate(Echo(), open_source(tmp_path / "images.npy"), against=other)
    assert found.token_agreement == pytest.approx(20 / 21)
    assert [scale.agreement for scale in found.scales] == [1, 1, 15 / 16]


def test_identical_images_are_counted_and_not_averaged(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)

    def odd_ones(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.where(np.arange(len(images))[:, None, None, None] % 2, noisy(images), images)

    source = open_source(tmp_path / "images.npy")
    found = evaluate(Echo(odd_ones), source, metrics=QUICK)
    assert found.num_identical == 4
    assert found.tokens.psnr == pytest.approx(np.mean(found.scores["psnr"][1::2]))
    assert next(found.per_image())["psnr"] is None

    found = evaluate(Echo(), source)
    figures = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (figures["num_identical"], figures["psnr"], figures["ssim"]) == (8, None, pytest.approx(1))
    assert figures["not_computed"]["psnr"] == "every reconstruction is identical to its original"


def test_learned_metrics_of_tokens_and_vae(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)
    asked: list[int] = []

    def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.abs(a.astype(float) - b).mean((1, 2, 3))

    def inception(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        asked.append(len(images))
        return images.reshape(len(images), -1)[:, ::300].astype(float)

    metrics = Metrics(ssim=False, ms_ssim=False, lpips=lpips, inception=inception, network_device="cpu")
    target = Echo(noisy, lambda images: images // 8 * 8)
    found = evaluate(target, open_source(tmp_path / "images.npy"), metrics=metrics, batch_size=5)
    assert found.tokens.lpips == pytest.approx(lpips(originals, noisy(originals)).mean())
    assert found.continuous is not None
    assert found.continuous.lpips == pytest.approx(lpips(originals, originals // 8 * 8).mean())
    assert found.tokens.rfid is not None
    assert found.continuous.rfid is not None
    assert found.tokens.rfid > found.continuous.rfid > 0
    # The originals' features are computed once, for both.
    assert asked == [5, 5, 5, 3, 3, 3]
    (warning,) = found.warnings
    assert "rFID over 8 images is biased upwards" in warning
    assert "over 50,000" in warning
    left = ("ssim", "ms_ssim", "lpips_alex", "dists", "ssimulacra2")
    assert set(found.not_computed) == {*left, *(f"vae_{key}" for key in left), "token_agreement"}

    # Of the other one's reconstructions too, and what lies between the two.
    other = Echo(lambda images: images // 64 * 64, name="other")
    found = evaluate(target, open_source(tmp_path / "images.npy"), metrics=metrics, against=other)
    assert found.other is not None
    assert found.other.lpips == pytest.approx(lpips(originals, originals // 64 * 64).mean())
    assert found.other.rfid is not None
    assert found.other.rfid > found.tokens.rfid
    compared = json.loads(json.dumps(found.to_json(), allow_nan=False))["against"]
    assert compared["path"] == "other"
    for key in ("psnr", "lpips", "rfid"):
        assert compared["quality"][key] == getattr(found.other, key)
        assert compared["difference"][key] == getattr(found.tokens, key) - getattr(found.other, key)
    assert compared["difference"]["ssim"] is None
    assert found.scores["against_psnr"].mean() == pytest.approx(found.other.psnr)

    one = evaluate(target, open_source(tmp_path / "images.npy"), metrics=metrics, limit=1)
    assert one.tokens.rfid is None
    assert one.not_computed["rfid"] == "it needs two images or more"
    assert one.warnings == []


def test_networks_run_without_tf32(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)
    seen: list[bool] = []

    def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.extend([torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32])
        return np.zeros(len(a))

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        evaluate(Echo(), open_source(tmp_path / "images.npy"), metrics=Metrics(lpips=lpips))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert seen == [False, False]


def test_bits_of_a_codebook_that_is_no_power_of_two(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)
    target = Echo(spec=dataclasses.replace(SPEC, vocab_size=12))
    found = evaluate(target, open_source(tmp_path / "images.npy"), metrics=QUICK)
    assert found.to_json()["bits_per_pixel"] == pytest.approx(21 * math.log2(12) / 32**2)


def test_a_batch_does_not_change_the_metrics(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)
    source = open_source(tmp_path / "images.npy")
    figures = [evaluate(Echo(noisy), source, batch_size=size).to_json() for size in (1, 3, 8)]
    assert figures[0] == figures[1] == figures[2]


def test_bad_images_are_skipped_and_counted(tmp_path: Path, originals: NDArray[np.uint8]) -> None:
    for index, image in enumerate(originals[:3]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:90])
    steps: list[int] = []
    found = evaluate(Echo(noisy), open_source(tmp_path), batch_size=2, metrics=QUICK, progress=steps.append)
    assert [Path(name).name for name in found.names] == ["0.png", "2.png"]
    figures = found.to_json()
    assert (figures["num_images"], figures["num_skipped"]) == (2, 1)
    assert figures["skipped"][0]["name"].endswith("1.png")
    assert figures["skipped"][0]["reason"]
    with pytest.raises(DataError, match=r"1\.png cannot be used: .* \(--skip-bad leaves such images out\)"):
        evaluate(Echo(noisy), open_source(tmp_path), metrics=QUICK, skip_bad=False)
    assert sum(steps) == 3
    assert figures["num_tokens"] == 2 * 21


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"none of 1 image can be read.*0\.png"):
        evaluate(Echo(), open_source(tmp_path))


def test_only_the_first_of_many_skipped_are_named(tmp_path: Path, originals: NDArray[np.uint8]) -> None:
    for index in range(105):
        (tmp_path / f"{index:03}.png").write_text("no image")
    Image.fromarray(originals[0]).save(tmp_path / "whole.png")
    found = evaluate(Echo(noisy), open_source(tmp_path), metrics=QUICK)
    assert (found.num_skipped, len(found.skipped), found.num_images) == (105, 100, 1)


def test_limits_spread_over_the_source(originals: NDArray[np.uint8], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", originals)
    found = evaluate(Echo(noisy), open_source(tmp_path / "images.npy"), metrics=QUICK, limit=4)
    assert [name.rpartition("[")[2] for name in found.names] == ["0]", "2]", "4]", "6]"]
    assert math.isfinite(found.tokens.psnr or math.nan)
