"""A bundle, measured and sealed, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import coda_runtime
from coda_deploy import CodaTokenizer
from coda_deploy.export import parity_images
from coda_deploy.reference import TorchReference
from coda_export import (
    DEFAULT_OPSET,
    DEFAULT_THRESHOLDS,
    Folded,
    ParityError,
    ParityImages,
    Threshold,
    bundle,
    export_bundle,
)
from coda_runtime.backends.base import LoadOptions
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.errors import InputError, MissingDependencyError, OutputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import ParitySamples, SavedReference, measure_bundle
from tests.tiny_tokenizers import images

PRECISIONS = ("fp32", "fp16", "bf16")


IMAGES = ParityImages(images(3).numpy(), "random pictures")


def manifest(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return read


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entry(folder: Path, file: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [artifact for artifact in manifest(folder)["artifacts"] if artifact["file"] == file]
    return found


def parity(folder: Path, file: str) -> dict[str, Any]:
    numbers: dict[str, Any] = entry(folder, file)["parity"]["onnxruntime:cpu"]
    return numbers


def test_files(tiny_bundle: Path) -> None:
    expected = [f"{part}.{precision}.onnx" for part in ("encoder", "decoder") for precision in PRECISIONS]
    expected += ["quantizer.fp32.onnx", "codebook.fp32.npy", "search.fp32.npz", "parity.fp32.npz"]
    expected += ["manifest.json", "SHA256SUMS"]
    assert listing(tiny_bundle) == sorted(expected)
    for line in (tiny_bundle / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        assert hashlib.sha256((tiny_bundle / name.lstrip("*")).read_bytes()).hexdigest() == digest
    for artifact in manifest(tiny_bundle)["artifacts"]:
        content = (tiny_bundle / artifact["file"]).read_bytes()
        assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
        assert artifact["bytes"] == len(content)


def test_spec_and_defaults(tiny_bundle: Path) -> None:
    data = manifest(tiny_bundle)
    assert data["format_version"] == 1
    assert data["default_precision"] == "fp32"
    wanted = {
        "variant": "tiny_sd",
        "image_size": 32,
        "downsample": 4,
        "latent_channels": 4,
        "vocab_size": 64,
        "scales": [1, 2, 3, 5, 8],
        "num_tokens": 103,
    }
    assert wanted.items() <= data["spec"].items()


def test_provenance(tiny_bundle: Path, tiny_folder: Path) -> None:
    provenance = manifest(tiny_bundle)["provenance"]
    weights = hashlib.sha256((tiny_folder / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["source"] == {"file": "model.safetensors", "sha256": weights}
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["versions"]["onnx"] == onnx.__version__
    assert provenance["versions"]["coda_export"] == coda_runtime.__version__
    assert provenance["tokenizer"] == json.loads((tiny_folder / "config.json").read_text())
    assert provenance["opset"]["fp32"] == DEFAULT_OPSET
    for file in tiny_bundle.glob("*.onnx"):
        part, precision, _ = file.name.split(".")
        (opset,) = onnx.load(file).opset_import
        assert provenance["opset"]["quantizer" if part == "quantizer" else precision] == opset.version, file


@pytest.mark.parametrize("part", ["encoder", "quantizer"])
def test_token_parity_of_fp32(tiny_bundle: Path, part: str) -> None:
    numbers = parity(tiny_bundle, f"{part}.fp32.onnx")
    assert numbers["step_agreement"] >= 0.999
    assert len(numbers["step_agreement_per_scale"]) == len(numbers["agreement_per_scale"]) == 5
    assert numbers["step_agreement"] >= numbers["agreement"]
    assert numbers["images"] == 8
    assert numbers["images_from"] == "photographs shipped with coda-deploy"


def test_pixel_parity_of_fp32(tiny_bundle: Path) -> None:
    numbers = parity(tiny_bundle, "decoder.fp32.onnx")
    assert numbers["psnr"] is None or numbers["psnr"] >= 55
    assert numbers["psnr_to_input"] == pytest.approx(numbers["reference_psnr_to_input"], abs=0.01)


def test_fp16_is_measured(tiny_bundle: Path) -> None:
    assert 0.5 < parity(tiny_bundle, "encoder.fp16.onnx")["step_agreement"] <= 1
    assert 20 < parity(tiny_bundle, "decoder.fp16.onnx")["psnr"] < 100
    assert "reason" not in parity(tiny_bundle, "decoder.fp16.onnx")


@pytest.mark.parametrize(("part", "number"), [("encoder", "step_agreement"), ("decoder", "psnr")])
def test_bf16_is_measured_or_says_why_not(tiny_bundle: Path, part: str, number: str) -> None:
    """onnxruntime's CPU provider has no bf16 convolution; OpenVINO's plugin, where it is installed, has."""
    ((where, numbers),) = entry(tiny_bundle, f"{part}.bf16.onnx")["parity"].items()
    if "reason" in numbers:
        assert numbers[number] is None
        assert len(numbers["reason"]) > 20
        assert ".part" not in numbers["reason"], "the temporary folder says nothing to the reader"
    else:
        assert where != "onnxruntime:cpu", "keyed by what it ran on"
        assert numbers[number] > (0.5 if part == "encoder" else 20)


@pytest.mark.parametrize("part", ["parity", "search"])
def test_arrays_are_fp32_artifacts(tiny_bundle: Path, part: str) -> None:
    described = entry(tiny_bundle, f"{part}.fp32.npz")
    assert (described["part"], described["format"], described["precision"]) == (part, "npz", "fp32")


def test_the_search_table_finds_the_tokenizer_s_ids(tiny_bundle: Path) -> None:
    numbers = entry(tiny_bundle, "search.fp32.npz")["parity"]["numpy:cpu"]
    assert numbers["step_agreement"] >= 0.999
    assert numbers["images"] == 8


def test_the_samples_are_what_the_tokenizer_makes_of_the_photographs(
    tiny_bundle: Path, reference: TorchReference
) -> None:
    samples = SavedReference.open(Bundle.open(tiny_bundle)).samples
    taken = ParitySamples.take(reference, parity_images(32).pixels)
    for name in ("images", "latent", "ids", "decoded"):
        np.testing.assert_array_equal(getattr(samples, name), getattr(taken, name))


def test_the_bundle_measures_itself_as_the_export_did(tiny_bundle: Path) -> None:
    """NumPy searches the steps in PyTorch's place."""
    measured = measure_bundle(Bundle.open(tiny_bundle), LoadOptions("cpu"))
    found = {artifact.file: parity for artifact, parity, _ in measured}
    assert len(found) == 8
    for file, places in found.items():
        recorded = entry(tiny_bundle, file)["parity"]
        for where, record in places.items():
            numbers = record.to_json()
            if "reason" in numbers:
                assert len(numbers["reason"]) > 20
            elif "psnr" in numbers:
                assert numbers["psnr"] == recorded[where]["psnr"]
            else:
                assert numbers["step_agreement"] == pytest.approx(recorded[where]["step_agreement"], abs=0.002)


def test_the_runtime_computes_what_the_tokenizer_does(tiny_bundle: Path, reference: TorchReference) -> None:
    pictures = images(5).numpy()
    with coda_runtime.load(tiny_bundle) as tok:
        ids = tok.encode(pictures)
        decoded, table, embedded = tok.decode(ids), tok.codebook, tok.embed(ids)
    latent = reference.latent(pictures)
    assert (reference.step(latent, ids) == ids).mean() >= 0.999
    assert psnr_per_image(decoded, reference.decode(ids)).min() > 55
    assert table.shape == (64, 4)
    assert embedded.shape == (5, 4, 8, 8)


def test_the_runtime_decodes_a_prefix_as_the_tokenizer_does(tiny_bundle: Path, tiny_folder: Path) -> None:
    tokenizer = CodaTokenizer.from_pretrained(tiny_folder)
    reference = TorchReference(tokenizer)
    with coda_runtime.load(tiny_bundle) as tok:
        ids = tok.encode(images().numpy())
        for tokens in (1, 5, 14, 39):
            found = tok.decode(ids[:, :tokens])
            assert psnr_per_image(found, reference.decode(ids[:, :tokens])).min() > 55
            np.testing.assert_allclose(
                tok.embed(ids[:, :tokens]),
                tokenizer.embed(torch.from_numpy(ids[:, :tokens])).detach().numpy(),
                atol=1e-5,
            )


def test_the_first_precision_is_the_default(tmp_path: Path, folded: Folded, reference: TorchReference) -> None:
    thresholds = DEFAULT_THRESHOLDS | {"fp16": Threshold(0, 0)}
    seen: list[str] = []
    made = export_bundle(
        folded,
        reference,
        tmp_path / "bundle",
        IMAGES,
        samples=images(2, seed=3).numpy(),
        precisions=("fp16", "fp32"),
        thresholds=thresholds,
        license="CC0-1.0",
        provenance={"by": "a test"},
        progress=seen.append,
    )
    assert made.default_precision == manifest(tmp_path / "bundle")["default_precision"] == "fp16"
    assert made.license == "CC0-1.0"
    assert made.provenance["by"] == "a test"
    assert "exporting the fp16 encoder" in seen
    assert "comparing the fp32 decoder with the tokenizer" in seen
    assert parity(tmp_path / "bundle", "decoder.fp32.onnx")["images_from"] == "random pictures"
    samples = ParitySamples.load(tmp_path / "bundle" / "parity.fp32.npz", made.spec)
    np.testing.assert_array_equal(samples.images, images(2, seed=3).numpy())
    with coda_runtime.load(tmp_path / "bundle") as tok:
        assert {a.precision for a in tok.artifacts if a.part != "quantizer"} == {"fp16"}


class Tampered(TorchReference):
    """Finds another id at the first position of every image."""

    def step(self, latent: Any, ids: Any) -> Any:
        out = super().step(latent, ids).copy()
        out[:, 0] = (out[:, 0] + 1) % 64
        return out


class Flipping(TorchReference):
    """Its own ids end with another one than its search finds there, as if the search table were another's."""

    def encode(self, latent: Any) -> Any:
        out = super().encode(latent).copy()
        out[:, -1] = (out[:, -1] + 1) % 64
        return out


class Inverted(TorchReference):
    def decode(self, ids: Any) -> Any:
        return 255 - super().decode(ids)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Tampered, r"the fp32 encoder agrees with the tokenizer on 99\.0\d\d % of the tokens, .* \(0\.\d+ % short\)"),
        (Flipping, r"the fp32 search agrees with the tokenizer on 99\.0\d\d % of the tokens"),
        (
            Inverted,
            r"the fp32 decoder is \d+\.\d+ dB from the tokenizer's images, the threshold is 55\.00 dB \(\d+\.\d+ dB",
        ),
    ],
)
def test_an_export_under_its_threshold_leaves_nothing(
    tmp_path: Path, folded: Folded, tiny_folder: Path, kind: type[TorchReference], message: str
) -> None:
    wrong = kind(CodaTokenizer.from_pretrained(tiny_folder))
    with pytest.raises(ParityError, match=message):
        export_bundle(folded, wrong, tmp_path / "new" / "bundle", IMAGES)
    assert listing(tmp_path) == [], "not even the parent folder, nor a temporary one"


def test_an_impossible_threshold(tmp_path: Path, folded: Folded, tiny_folder: Path, tiny_bundle: Path) -> None:
    """The bundle that was there survives."""
    wrong = Tampered(CodaTokenizer.from_pretrained(tiny_folder))
    old = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    with pytest.raises(ParityError, match=r"the threshold is 100 %"):
        export_bundle(folded, wrong, old, IMAGES, thresholds={"fp32": Threshold(1.0, 0)}, replace=True)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert listing(tmp_path) == ["bundle"]


def test_a_bundle_is_replaced_on_request_alone_and_as_a_whole(
    tmp_path: Path, folded: Folded, reference: TorchReference, tiny_bundle: Path
) -> None:
    old = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    with pytest.raises(
        OutputError, match=r"is a bundle already \(fp32, bf16, fp16\): give --into .* --force to replace"
    ):
        export_bundle(folded, reference, old, IMAGES)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    export_bundle(folded, reference, old, IMAGES, replace=True)
    assert {path.name for path in tiny_bundle.iterdir()} - set(listing(old)) == {
        "parity.fp32.npz",
        *(f"{part}.{precision}.onnx" for part in ("encoder", "decoder") for precision in ("fp16", "bf16")),
    }, "no samples were given, so there are none"
    assert listing(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, folded: Folded, reference: TorchReference, monkeypatch: pytest.MonkeyPatch, error: type
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(bundle, "quantizer_graph", stop)
    monkeypatch.setattr(bundle, "encoder_graph", lambda *_: onnx.ModelProto())
    with pytest.raises(error):
        export_bundle(folded, reference, tmp_path / "bundle", IMAGES)
    assert listing(tmp_path) == []


def test_what_is_not_a_bundle_is_not_replaced(tmp_path: Path, folded: Folded, reference: TorchReference) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"dear to somebody")
    with pytest.raises(OutputError, match=r"photographs exists and is not a bundle: choose another --out"):
        export_bundle(folded, reference, folder, IMAGES)
    with pytest.raises(OutputError, match=r"holiday\.jpg exists and is not a bundle"):
        export_bundle(folded, reference, folder / "holiday.jpg", IMAGES)
    assert (folder / "holiday.jpg").read_bytes() == b"dear to somebody"


def test_a_bundle_that_was_put_there_meanwhile_stays(
    tmp_path: Path, folded: Folded, reference: TorchReference, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a second export into the same folder, which was the first to end."""
    real = bundle.seal

    def late(*arguments: Any) -> Any:
        shutil.copytree(tiny_bundle, tmp_path / "bundle")
        return real(*arguments)

    monkeypatch.setattr(bundle, "seal", late)
    with pytest.raises(OutputError, match="is a bundle already"):
        export_bundle(folded, reference, tmp_path / "bundle", IMAGES)
    assert listing(tmp_path / "bundle") == listing(tiny_bundle)
    assert listing(tmp_path) == ["bundle"]


def test_an_empty_folder_is_filled(tmp_path: Path, folded: Folded, reference: TorchReference) -> None:
    (tmp_path / "empty").mkdir()
    export_bundle(folded, reference, tmp_path / "empty", IMAGES)
    assert (tmp_path / "empty" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("precisions", "message"),
    [
        (("int4",), "precision 'int4' is unknown, expected some of fp32, fp16, bf16"),
        (("fp32", "FP16"), "precision 'FP16' is unknown"),
        ((), "at least one, found none"),
        (("fp32", "fp32"), "name each precision once.*found fp32,fp32"),
    ],
)
def test_precisions_that_are_rejected(
    tmp_path: Path, folded: Folded, reference: TorchReference, precisions: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_bundle(folded, reference, tmp_path / "bundle", IMAGES, precisions=precisions)
    assert listing(tmp_path) == []


def test_no_onnxruntime(
    tmp_path: Path, folded: Folded, reference: TorchReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that cannot be measured is not made: the missing library is named instead."""
    from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    missing = MissingDependencyError("running ONNX files needs onnxruntime", "onnxruntime")
    monkeypatch.setattr(OnnxRuntimeBackend, "missing", lambda _: missing)
    with pytest.raises(MissingDependencyError, match='pip install "onnxruntime>='):
        export_bundle(folded, reference, tmp_path / "bundle", IMAGES)
    assert listing(tmp_path) == []
