"""A bundle of images that are no squares, through all that takes a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import coda_runtime
from coda_deploy import CodaTokenizer, photographs
from coda_deploy.cli import eval as eval_command
from coda_deploy.cli import export as export_command
from coda_deploy.export import verify_parity
from coda_deploy.reference import TorchReference
from coda_runtime.cli import app
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.errors import ImageError, TokenError
from coda_runtime.format.bundle import Bundle
from coda_runtime.images import fit
from coda_runtime.triton import write_repository
from tests.runtime.bulk.local_pipeline import without_ray
from tests.runtime.serving.process import Server, body
from tests.runtime.triton import reading
from tests.tiny_tokenizers import make

SCALES = ((1, 1), (2, 3), (3, 5), (6, 10))
LENGTHS = (1, 7, 22, 82)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 32 x 32, and the bundle that ``coda export --image-size`` makes of it."""
    out = tmp_path_factory.mktemp("rectangle")
    make("sd").save_pretrained(out / "tokenizer")
    made = CliRunner().invoke(
        export_command.command,
        [
            *(str(out / "tokenizer"), "--out", str(out / "bundle"), "--image-size", "24x40"),
            *("--schedule", "1x1,2x3,3x5,6x10", "--min-psnr", "55"),
        ],
        catch_exceptions=False,
    )
    assert made.exit_code == 0, made.output
    return out


@pytest.fixture(scope="module")
def tok(folder: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(folder / "bundle", threads=1) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([fit(path, (24, 40)) for path in photographs.paths()[:4]])


def cli(*arguments: object) -> str:
    done = CliRunner().invoke(app.cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_tokens_and_pictures_are_the_unfolded_tokenizers(
    folder: Path, tok: coda_runtime.Tokenizer, photos: np.ndarray
) -> None:
    unfolded = TorchReference(CodaTokenizer.from_pretrained(folder / "tokenizer").at_size((24, 40), SCALES))
    ids = tok.encode(photos)
    assert (ids.shape, ids.dtype) == ((4, 82), np.int32)
    assert (unfolded.step(unfolded.latent(photos), ids) == ids).mean() >= 0.999
    assert psnr_per_image(tok.decode(ids), unfolded.decode(ids)).min() >= 55
    np.testing.assert_array_equal(tok.encode(list(photographs.paths()[:4])), ids)
    np.testing.assert_array_equal(tok.reconstruct(photos), tok.decode(ids))


def test_scales_and_prefixes(folder: Path, tok: coda_runtime.Tokenizer, photos: np.ndarray) -> None:
    assert (tok.spec.image_size, tok.spec.scales, tok.spec.prefix_lengths) == ((24, 40), SCALES, LENGTHS)
    assert "24x40 px" in repr(tok)
    ids = tok.encode(photos)
    parts = tok.split(ids)
    assert [part.shape for part in parts] == [(4, *shape) for shape in SCALES]
    np.testing.assert_array_equal(np.concatenate([part.reshape(4, -1) for part in parts], 1), ids)
    unfolded = CodaTokenizer.from_pretrained(folder / "tokenizer").at_size((24, 40), SCALES)
    for length in LENGTHS:
        prefix = torch.from_numpy(ids[:, :length])
        np.testing.assert_allclose(tok.embed(ids[:, :length]), unfolded.embed(prefix).detach().numpy(), atol=1e-5)
        assert tok.decode(ids[:, :length]).shape == (4, 24, 40, 3)
    with pytest.raises(TokenError, match="ids has 4 tokens a row; expected a whole number of scales, one of 1, 7, 22"):
        tok.decode(ids[:, :4])


def test_arrays_of_other_shapes_are_fitted(tok: coda_runtime.Tokenizer, photos: np.ndarray) -> None:
    large = photos.repeat(3, 1).repeat(3, 2)
    expected = np.stack([fit(image, (24, 40)) for image in large])
    np.testing.assert_array_equal(tok.encode(large), tok.encode(expected))
    assert tok.encode(np.zeros((1, 40, 24, 3), np.uint8)).shape == (1, 82)
    with pytest.raises(ImageError, match="channels first"):
        tok.encode(np.zeros((1, 3, 24, 40), np.uint8))


def test_the_commands(folder: Path, tok: coda_runtime.Tokenizer, photos: np.ndarray, tmp_path: Path) -> None:
    bundle, tokens = folder / "bundle", tmp_path / "tokens.npz"
    for number, photo in enumerate(photos):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "in" / f"{number}.png")
    cli("encode", bundle, tmp_path / "in", "--out", tokens)
    with np.load(tokens) as file:
        assert file["scales"].tolist() == [list(shape) for shape in SCALES]
        np.testing.assert_array_equal(file["ids"], tok.encode(photos))
    cli("decode", bundle, tokens, "--out", tmp_path / "out", "--scales", 3)
    with Image.open(next((tmp_path / "out").glob("*.png"))) as decoded:
        assert decoded.size == (40, 24)
    cli("reconstruct", bundle, tmp_path / "in", "--out", tmp_path / "back")
    told = cli("inspect", bundle)
    assert "24 x 40 RGB, cover, Lanczos, center crop" in told
    assert "4 x 6 x 10 (downsample 4)" in told
    assert "82 in scales 1x1 2x3 3x5 6x10" in told
    assert json.loads(cli("inspect", bundle, "--json"))["spec"]["image_size"] == [24, 40]
    assert json.loads((bundle / "manifest.json").read_text())["format_version"] == 1
    done = CliRunner().invoke(
        eval_command.command,
        [
            *(str(bundle), "--data", str(tmp_path / "in"), "--json", "--skip", "ms-ssim"),
            *("--report", str(tmp_path / "report.html")),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [scale["side"] for scale in found["scales"]] == [list(shape) for shape in SCALES]
    assert found["bits_per_pixel"] == pytest.approx(82 * 6 / (24 * 40))
    assert "24 × 40" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_parity_is_measured_again(folder: Path) -> None:
    """With the tokenizer as it is, of another size than the bundle was exported for."""
    measured = verify_parity(folder / "bundle", folder / "tokenizer")
    assert measured["quantizer.fp32.onnx"]["onnxruntime:cpu"]["step_agreement"] == 1
    assert len(measured["quantizer.fp32.onnx"]["onnxruntime:cpu"]["step_agreement_per_scale"]) == len(SCALES)


@pytest.mark.slow
def test_lower_precisions_and_engines(folder: Path, tmp_path: Path, photos: np.ndarray) -> None:
    """Added to the bundle, int8 runs and differs little; engines build, in bf16 and int8 too."""
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", bundle)
    made = CliRunner().invoke(
        export_command.command,
        [
            *(str(folder / "tokenizer"), "--into", str(bundle), "--precision", "bf16,int8"),
            *("--min-agreement", "0.3", "--min-psnr", "15", "--max-psnr-drop", "6"),
        ],
        catch_exceptions=False,
    )
    assert made.exit_code == 0, made.output
    with coda_runtime.load(bundle, precision="int8", threads=1) as low, coda_runtime.load(bundle, threads=1) as full:
        ids = full.encode(photos)
        assert psnr_per_image(low.decode(ids), full.decode(ids)).mean() > 15
        assert low.encode(photos).shape == ids.shape
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    for precision in ("fp32", "bf16", "int8"):
        cli(
            "build",
            bundle,
            "--engine",
            "tensorrt-rtx",
            "--target",
            "sm89",
            "--precision",
            precision,
            "--batch",
            "1,2,4",
        )
    made_of = [(a.part, a.precision) for a in Bundle.open(bundle).manifest.artifacts if a.format == "tensorrt-rtx"]
    expected = {(part, name) for part in ("encoder", "decoder") for name in ("fp32", "bf16", "int8")}
    assert set(made_of) == expected | {("quantizer", "fp32")}


def test_the_card_and_tritons_configs(folder: Path, tmp_path: Path) -> None:
    from coda_runtime.hub.card import card_text
    from coda_runtime.hub_source.names import parse_hub_name

    text = card_text(Bundle.open(folder / "bundle").manifest, parse_hub_name("owner/wide"), False)
    assert "an image of 24 x 40 pixels becomes 82 tokens" in text
    assert "1x1 2x3 3x5 6x10" in text
    configs = reading.check(write_repository(folder / "bundle", tmp_path / "models").folder)
    assert list(configs["encoder"].input[0].dims) == [24, 40, 3]
    assert list(configs["quantizer"].input[0].dims) == [4, 6, 10]


def test_bulk(folder: Path, tok: coda_runtime.Tokenizer, tmp_path: Path) -> None:
    from coda_deploy.tokens import TokenDataset
    from coda_runtime.bulk import tokenize

    for number, path in enumerate(photographs.paths()[:4]):
        (tmp_path / "in").mkdir(exist_ok=True)
        with Image.open(path) as photo:
            photo.reduce(3).save(tmp_path / "in" / f"{number}.png")
    with without_ray():
        tokenize(folder / "bundle", tmp_path / "in", tmp_path / "out")
    data = TokenDataset(tmp_path / "out")
    assert (data.spec.image_size, data.spec.scales) == ((24, 40), SCALES)
    expected = tok.encode(sorted((tmp_path / "in").glob("*.png")))
    assert sorted(data[index]["ids"].tolist() for index in range(4)) == sorted(expected.tolist())


def test_the_server(folder: Path, tok: coda_runtime.Tokenizer, photos: np.ndarray) -> None:
    server = Server(folder / "bundle", "--device", "cpu", "--threads", 1)
    try:
        server.wait_for("ready")
        ids = tok.encode(photos[:1])
        status, answer = server.post("/v2/models/encode/infer", body(photos[:1], "image", "UINT8"))
        assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, ids[0].tolist())
        large = photos[:1].repeat(2, 1).repeat(2, 2)
        status, answer = server.post("/v2/models/encode/infer", body(large, "image", "UINT8"))
        assert (status, json.loads(answer)["outputs"][0]["shape"]) == (200, [1, 82])
        status, answer = server.post("/v2/models/decode/infer", body(ids, "ids", "INT32"))
        assert json.loads(answer)["outputs"][0]["shape"] == [1, 24, 40, 3]
    finally:
        server.kill()
