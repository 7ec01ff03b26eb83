"""`coda export` and `coda verify --tokenizer`."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from PIL import Image

import coda_runtime
from coda_deploy import photographs
from coda_deploy.reference import TorchReference
from coda_runtime.backends.base import LoadOptions, Session
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.errors import ArtifactError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import Artifact
from coda_runtime.parity import ParityMeter
from tests.deploy.cli.command import coda, one_line
from tests.runtime.triton import reading
from tests.tiny_tokenizers import images, make


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A bundle that the command has made, not to be changed, and what it said."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return out, coda("export", tiny_folder, "--out", out)


@pytest.fixture
def fp32_bundle(exported: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(exported[0], tmp_path / "bundle"))


def test_export(exported: tuple[Path, Result]) -> None:
    out, result = exported
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for file in ("encoder.fp32.onnx", "quantizer.fp32.onnx", "decoder.fp32.onnx"):
        assert file in result.stdout
        assert (out / file).is_file()
    assert "step agreement" in result.stdout
    assert " MB" in result.stdout.splitlines()[-1]


def test_json_is_the_manifest(tiny_folder: Path, tmp_path: Path) -> None:
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "bundle" / "manifest.json").read_text())


def test_several_precisions_and_what_could_not_be_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: OnnxRuntimeBackend, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        if artifact.precision == "bf16":
            raise ArtifactError("no bf16 convolution")
        return real(self, bundle, artifact, options)

    real = OnnxRuntimeBackend.load
    monkeypatch.setattr(OnnxRuntimeBackend, "load", load)
    monkeypatch.setattr(ParityMeter, "_on_the_cpu", lambda *_: "onnxruntime")  # as where OpenVINO is not installed
    settings = ["--precision", "fp16, bf16", "--min-agreement", 0.5, "--min-psnr", 20]
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", *settings)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["default_precision"] == "fp16"
    files = "encoder.bf16.onnx, decoder.bf16.onnx"
    assert result.stderr == f"warning: not measured: {files}: no bf16 convolution\n"
    assert "not run" in result.stdout
    verified = coda("verify", tmp_path / "bundle", "--tokenizer", tiny_folder)
    assert verified.exit_code == 0, verified.output
    assert "and parity holds" not in verified.stdout
    assert f"parity holds for 3 of 5 graphs, the others were not measured: {files}: " in verified.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--precision", "fp16", "--min-agreement", 0, "--min-psnr", 200], "the fp16 decoder is"),
        (["--precision", "int4"], "precision 'int4' is unknown"),
        (["--max-psnr-drop", 1], "--max-psnr-drop is for int8, which is not asked for"),
        (["--calibration", "coda_deploy/calibration"], "--calibration is for int8, which is not asked for"),
        (
            ["--precision", "int8", "--max-psnr-drop", 0, "--min-psnr", 0],
            "through the int8 encoder and the int8 decoder",
        ),
        (["--precision", ","], "name each precision once and at least one"),
        (["--engine", "tensorrt"], 'pip install "tensorrt>=10.9"'),
        (["--engine", "tensorrt-rtx", "--target", "sm90"], "has no target sm90"),
        (["--engine", "tensorrt-rtx", "--batch", "8,4,1"], "expected MIN,OPT,MAX, rising"),
        (["--batch", "1,4,8"], "--batch applies to engines, and none is requested"),
        (["--engine", "ptx", "--target", "sm89"], "--target applies to engines, and none is requested"),
        (["--triton-format", "onnx"], "no repository is requested: add --triton REPO"),
    ],
)
def test_failures_leave_nothing(tiny_folder: Path, tmp_path: Path, settings: list[object], message: str) -> None:
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", *settings)
    assert result.exit_code == 1
    assert message in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_engines_and_kernels_come_with_the_bundle(tiny_folder: Path, tmp_path: Path) -> None:
    engines = ["--engine", "tensorrt-rtx", "--engine", "ptx", "--target", "sm89,sm120", "--batch", "1,2,4"]
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", *engines)
    assert result.exit_code == 0, result.output
    opened = Bundle.open(tmp_path / "bundle")
    opened.verify("always")
    formats = {part: [a.format for a in opened.manifest.find(part)] for part in ("encoder", "quantizer", "decoder")}
    assert formats == {
        "encoder": ["onnx", "tensorrt-rtx"],
        "quantizer": ["onnx", "ptx", "tensorrt-rtx"],
        "decoder": ["onnx", "tensorrt-rtx"],
    }
    for artifact in opened.manifest.artifacts:
        if artifact.format == "tensorrt-rtx":
            assert artifact.batch == (1, 2, 4)
            assert artifact.parity["tensorrt-rtx:cuda"]["reason"]
        if artifact.format == "ptx":
            assert artifact.parity["cuda:cuda"]["reason"]
    assert all(".ptx" not in sign for sign in opened.fingerprints)
    assert "engines/decoder.fp32.tensorrt-rtx-sm89-sm120.engine" in result.stdout
    assert result.stderr.count("NVIDIA driver shows none here") in (1, 2), "each reason once"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_repository_for_triton(tiny_folder: Path, tmp_path: Path) -> None:
    bundle, repo = tmp_path / "bundle", tmp_path / "models"
    result = coda("export", tiny_folder, "--out", bundle, "--triton", repo, "--triton-device", "cpu")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert result.stdout.splitlines()[-1].startswith(f"{repo}: Triton models from onnx files in fp32")
    assert set(reading.check(repo)) == {"encoder", "quantizer", "decoder", "encode", "decode"}
    with coda_runtime.load(bundle) as tok:
        size = tok.spec.image_size
        images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        ids = reading.run(repo, "encode", {"image": images})["ids"]
        assert np.array_equal(ids, tok.encode(images))
        assert np.array_equal(reading.run(repo, "decode", {"ids": ids})["image"], tok.decode(ids))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--triton-format", "tensorrt"], "none is built: add --engine tensorrt"),
        (["--triton-precision", "fp16"], "precision is 'fp16', and the bundle has fp32"),
        (["--precision", "bf16,fp32", "--triton-device", "cpu"], "no bf16 convolution for CPUs"),
        (["--triton", "bundle/models"], "one inside the other"),
        (["--triton", "taken"], "taken is a file; expected the name of a folder"),
    ],
)
def test_what_triton_cannot_have_is_reported_before_the_export(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[object], message: str
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the export began")

    monkeypatch.setattr("coda_deploy.export.export_tokenizer", too_late)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    result = coda("export", tiny_folder, "--out", "bundle", "--triton", "models", *settings)
    assert message in one_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_tokens_that_differ_leave_nothing(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(self: TorchReference, latent: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([(ids[:, :1] + 1) % 64, ids[:, 1:]], 1)

    monkeypatch.setattr(TorchReference, "step", tampered)
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", "--min-agreement", 1.0)
    assert result.exit_code == 1
    # One token of each image's 103.
    assert "the fp32 encoder agrees with the tokenizer on 99.029 % of the tokens" in one_line(result)
    assert "(0.971 % short)" in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_no_tokenizer(tmp_path: Path) -> None:
    result = coda("export", tmp_path / "nowhere", "--out", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "no tokenizer folder at" in one_line(result)


def test_a_folder_that_is_not_a_bundle_survives(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = coda("export", tiny_folder, "--out", tmp_path)
    assert result.exit_code == 1
    assert "exists and is not a bundle" in one_line(result)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_bundle_is_not_replaced_unasked(fp32_bundle: Path, tiny_folder: Path) -> None:
    """A bundle of several precisions became one of one, and engines that were built into it were gone."""
    before = {path.name: path.read_bytes() for path in fp32_bundle.iterdir()}
    refused = one_line(coda("export", tiny_folder, "--out", fp32_bundle, "--precision", "fp16"))
    assert f"{fp32_bundle} is a bundle already (fp32): give --into" in refused
    assert {path.name: path.read_bytes() for path in fp32_bundle.iterdir()} == before
    settings = ["--precision", "fp16", "--min-psnr", 20, "--min-agreement", 0.5, "--force", "--json"]
    done = coda("export", tiny_folder, "--out", fp32_bundle, *settings)
    assert done.exit_code == 0, done.output
    assert Bundle.open(fp32_bundle).manifest.precisions == ("fp16",)


def test_a_precision_is_added(fp32_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    low = ["--precision", "fp16", "--min-psnr", 20, "--min-agreement", 0.5]
    triton = ["--triton", tmp_path / "models", "--triton-precision", "fp16", "--triton-device", "cpu"]
    done = coda("export", tiny_folder, "--into", fp32_bundle, *low, *triton)
    assert done.exit_code == 0, done.output
    assert "decoder.fp32.onnx" in done.stdout
    assert "decoder.fp16.onnx" in done.stdout
    assert f"{fp32_bundle}: " in done.stdout
    manifest = Bundle.open(fp32_bundle).manifest
    assert (manifest.precisions, manifest.default_precision) == (("fp32", "fp16"), "fp32")
    assert "has fp16 already" in one_line(coda("export", tiny_folder, "--into", fp32_bundle, *low))


def test_a_precision_of_another_tokenizer_is_not_added(fp32_bundle: Path, tmp_path: Path) -> None:
    make(seed=5).save_pretrained(tmp_path / "other")
    refused = one_line(coda("export", tmp_path / "other", "--into", fp32_bundle, "--precision", "fp16"))
    assert "name the tokenizer it was exported from" in refused
    nowhere = one_line(coda("export", tmp_path / "other", "--into", tmp_path / "none", "--precision", "fp16"))
    assert "there is no folder" in nowhere


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tokenizer", "--out", "bundle", "--into", "other"],
        ["tokenizer", "--into", "bundle", "--force"],
        ["tokenizer"],
        ["tokenizer", "--out", "bundle", "--min-agreement", "2"],
        ["tokenizer", "--out", "bundle", "--min-psnr", "high"],
        ["tokenizer", "--out", "bundle", "--parity-images", "/no/such/folder"],
        ["tokenizer", "--out", "bundle", "--engine"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert coda("export", *arguments).exit_code == 2


@pytest.mark.parametrize("command", ["export", "import-official"])
def test_help_has_an_example(command: str) -> None:
    result = coda(command, "--help")
    assert result.exit_code == 0
    assert f"coda {command} " in result.stdout.split("Example:")[1]


def test_verify_with_its_tokenizer(fp32_bundle: Path, tiny_folder: Path) -> None:
    result = coda("verify", fp32_bundle, "--tokenizer", tiny_folder, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    assert set(report["parity"]) == {"encoder.fp32.onnx", "quantizer.fp32.onnx", "decoder.fp32.onnx"}
    assert (report["unmeasured"], report["note"]) == ({}, None)
    assert report["parity"]["encoder.fp32.onnx"]["onnxruntime:cpu"]["step_agreement"] >= 0.999


def test_verify_without_its_tokenizer(fp32_bundle: Path) -> None:
    result = coda("verify", fp32_bundle, "--parity", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("all files are intact, and parity holds\n")


def test_verify_with_another_tokenizer(fp32_bundle: Path, tmp_path: Path) -> None:
    make(seed=5).save_pretrained(tmp_path / "other")
    result = coda("verify", fp32_bundle, "--tokenizer", tmp_path / "other")
    assert result.exit_code == 1
    assert "name the tokenizer it was exported from" in one_line(result)


def test_verify_tells_a_bundle_that_does_something_else(fp32_bundle: Path, tiny_folder: Path) -> None:
    """Whole files and the right provenance, but the value table's codes in another order: parity sees it."""
    file = fp32_bundle / "quantizer.fp32.onnx"
    model = onnx.load(file)
    (table,) = [t for t in model.graph.initializer if t.name.startswith("codebook")]
    values = onnx.numpy_helper.to_array(table)
    table.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), table.name))
    onnx.save(model, file)
    manifest = Bundle.open(fp32_bundle).manifest
    artifacts: list[Artifact] = []
    for artifact in manifest.artifacts:
        sha256, size = describe_file(fp32_bundle, artifact.file)
        artifacts.append(dataclasses.replace(artifact, sha256=sha256, bytes=size))
    seal(fp32_bundle, dataclasses.replace(manifest, artifacts=tuple(artifacts)))
    assert coda("verify", fp32_bundle).exit_code == 0
    for how in (["--tokenizer", tiny_folder], ["--parity"]):
        result = coda("verify", fp32_bundle, *how)
        assert result.exit_code == 1
        assert "agrees with the tokenizer on" in one_line(result, silent=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "no tokenizer folder at nowhere: give"), ("official:sd", "unknown variant 'sd', expected one of")],
)
def test_verify_with_a_tokenizer_that_is_not_there(fp32_bundle: Path, name: str, message: str) -> None:
    result = coda("verify", fp32_bundle, "--tokenizer", name)
    assert message in one_line(result)


def test_verify_a_damaged_bundle_measures_nothing(fp32_bundle: Path, tiny_folder: Path) -> None:
    file = fp32_bundle / "decoder.fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    result = coda("verify", fp32_bundle, "--tokenizer", tiny_folder)
    assert result.exit_code == 1
    assert "decoder.fp32.onnx" in one_line(result, silent=False)
    assert "step agreement" not in result.stdout
    assert "parity holds" not in result.stdout


def test_verify_without_photographs(fp32_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = coda("verify", fp32_bundle, "--tokenizer", tiny_folder, "--parity-images", tmp_path / "empty")
    assert result.exit_code == 1
    assert "holds no images" in one_line(result, silent=False)
    shutil.rmtree(tmp_path / "empty")
    assert coda("verify", fp32_bundle, "--parity-images", tmp_path).exit_code == 2


def test_engines_of_several_profiles(tiny_folder: Path, tmp_path: Path) -> None:
    engines = ["--engine", "tensorrt-rtx", "--target", "sm89", "--batch", "2,3,4", "--batch", "1"]
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", *engines)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(
        "device memory of one execution context, by batch profile, estimated from the graph"
    )
    made = [a for a in Bundle.open(tmp_path / "bundle").manifest.artifacts if a.engine]
    assert [(a.part, a.batch, a.profiles) for a in made] == [
        (part, None, ((1, 1, 1), (2, 3, 4))) for part in ("encoder", "quantizer", "decoder")
    ]


INT8 = ["--precision", "int8", "--min-psnr", 10, "--max-psnr-drop", 3]


def test_int8_on_images_of_ones_own(fp32_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for index, picture in enumerate(images(3, seed=4).numpy()):
        Image.fromarray(picture).save(folder / f"{index}.png")
    done = coda("export", tiny_folder, "--into", fp32_bundle, *INT8, "--calibration", folder)
    assert done.exit_code == 0, done.output
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("decoder.int8.onnx"))
    assert re.search(r"\d+\.\d dB +-?\d+\.\d\d ± \d+\.\d\d dB \(worst -?\d+\.\d\d\)", row)
    provenance = Bundle.open(fp32_bundle).manifest.provenance
    assert provenance["calibration"]["int8"]["images_from"] == "3 of 3 images of the user's"
    assert provenance["floors"]["int8"] == {"min_agreement": 0, "min_psnr": 10, "max_psnr_drop": 3}
    shown = coda("inspect", fp32_bundle)
    assert " dB (worst " in shown.stdout
    verified = coda("verify", fp32_bundle, "--tokenizer", tiny_folder)
    assert verified.exit_code == 0, verified.output
    assert " dB (worst " in verified.stdout
    assert "parity holds" in coda("verify", fp32_bundle, "--parity", "--backend", "onnxruntime").stdout


def test_images_that_int8_cannot_be_calibrated_on(fp32_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    export = functools.partial(coda, "export", tiny_folder, "--into", fp32_bundle, *INT8, "--calibration")
    before = sorted(path.name for path in fp32_bundle.iterdir())
    folder = tmp_path / "own"
    folder.mkdir()
    assert "holds no images" in one_line(export(folder))
    Image.new("RGB", (40, 40), (9, 80, 200)).save(folder / "blue.png")
    assert "the layer encoder.conv_in reads nothing but one number a channel in each of the 1" in one_line(
        export(folder)
    )
    shutil.copy(photographs.paths()[0], folder)
    assert one_line(export(folder)).startswith("error: astronaut.jpg: parity is measured on it, which would flatter")
    assert sorted(path.name for path in fp32_bundle.iterdir()) == before
