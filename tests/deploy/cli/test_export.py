"""`coda export` and `coda verify --tokenizer`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from coda_deploy.reference import TorchReference
from coda_export import bundle
from coda_runtime.bundle import Bundle, describe_file, seal
from coda_runtime.cli.app import cli
from coda_runtime.manifest import Artifact
from tests.tiny_tokenizers import make


@pytest.fixture(autouse=True, scope="module")
def _ready_graphs(tiny_bundle: Path) -> Iterator[None]:
    """The exporter's graphs are those of the tiny bundle, which were exported once."""
    patch = pytest.MonkeyPatch()
    for part in ("encoder", "decoder"):
        patch.setattr(
            bundle,
            f"{part}_graph",
            lambda _folded, precision, _opset, part=part: onnx.load(tiny_bundle / f"{part}.{precision}.onnx"),
        )
    yield
    patch.undo()


def coda(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def one_line(result: Result) -> str:
    """The one line on stderr that a failure is told in."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


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
    assert "token agreement" in result.stdout
    assert " MB" in result.stdout.splitlines()[-1]


def test_json_is_the_manifest(tiny_folder: Path, tmp_path: Path) -> None:
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "bundle" / "manifest.json").read_text())


def test_several_precisions_and_what_could_not_be_run(tiny_folder: Path, tmp_path: Path) -> None:
    settings = ["--precision", "fp16, bf16", "--min-agreement", 0.5, "--min-psnr", 20]
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", *settings)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["default_precision"] == "fp16"
    assert "warning: encoder.bf16.onnx was not measured on onnxruntime:cpu: " in result.stderr
    assert "not run" in result.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--precision", "fp16", "--min-agreement", 0, "--min-psnr", 200], "the fp16 decoder is"),
        (["--precision", "int8"], "precision 'int8' is unknown"),
        (["--precision", ","], "name each precision once and at least one"),
    ],
)
def test_failures_leave_nothing(tiny_folder: Path, tmp_path: Path, settings: list[object], message: str) -> None:
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", *settings)
    assert result.exit_code == 1
    assert message in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_tokens_that_differ_leave_nothing(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(self: TorchReference, latent: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([(ids[:, :1] + 1) % 64, ids[:, 1:]], 1)

    monkeypatch.setattr(TorchReference, "step", tampered)
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", "--min-agreement", 1.0)
    assert result.exit_code == 1
    # One token of each image's 103.
    assert "the fp32 encoder agrees with the tokenizer on 99.029% of the tokens" in one_line(result)
    assert "(0.971% short)" in one_line(result)
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


@pytest.mark.parametrize(
    "arguments",
    [
        [],
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
    assert report["parity"]["encoder.fp32.onnx"]["onnxruntime:cpu"]["step_agreement"] >= 0.999


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
    result = coda("verify", fp32_bundle, "--tokenizer", tiny_folder)
    assert result.exit_code == 1
    assert "agrees with the tokenizer on" in one_line(result)


def test_verify_a_damaged_bundle_measures_nothing(fp32_bundle: Path, tiny_folder: Path) -> None:
    file = fp32_bundle / "decoder.fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    result = coda("verify", fp32_bundle, "--tokenizer", tiny_folder)
    assert result.exit_code == 1
    assert "decoder.fp32.onnx" in one_line(result)
    assert "parity" not in result.stdout


def test_verify_without_photographs(fp32_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = coda("verify", fp32_bundle, "--tokenizer", tiny_folder, "--parity-images", tmp_path / "empty")
    assert result.exit_code == 1
    assert "holds no images" in one_line(result)
    shutil.rmtree(tmp_path / "empty")
    assert coda("verify", fp32_bundle, "--parity-images", tmp_path).exit_code == 2
