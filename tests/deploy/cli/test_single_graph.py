"""`coda export --single-graph`: image to ids in one file, held to what its parts are held to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import coda_runtime
from coda_deploy.export import parity_images
from coda_export import bundle
from coda_runtime.format.bundle import Bundle
from coda_runtime.hub import pull, push
from tests.deploy.cli.command import coda, one_line
from tests.hub_server import Hub


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with single graphs; not to be changed."""
    out = tmp_path_factory.mktemp("single") / "bundle"
    settings = ["--precision", "fp32,int8", "--max-psnr-drop", 3, "--min-psnr", 20, "--min-agreement", 0.5]
    result = coda("export", tiny_folder, "--out", out, "--single-graph", *settings)
    assert result.exit_code == 0, result.output
    assert "encode.int8.onnx" in result.stdout
    return out


def parity(folder: Path, file: str) -> dict[str, Any]:
    artifacts = json.loads((folder / "manifest.json").read_text())["artifacts"]
    (found,) = [artifact for artifact in artifacts if artifact["file"] == file]
    numbers: dict[str, Any] = found["parity"]["onnxruntime:cpu"]
    return numbers


def test_the_file_gives_the_ids_of_both_parts(exported: Path) -> None:
    opened = Bundle.open(exported)
    opened.verify("always")
    assert [a.precision for a in opened.manifest.find("encode", format="onnx")] == ["fp32", "int8"]
    assert "encode.fp32.onnx" in (exported / "SHA256SUMS").read_text()
    pixels = parity_images(opened.spec.image_size).pixels
    session = onnxruntime.InferenceSession(exported / "encode.fp32.onnx")
    with coda_runtime.load(exported, device="cpu") as tok:
        assert (session.run(None, {"image": pixels})[0] == tok.encode(pixels)).all()
        assert {artifact.part for artifact in tok.artifacts} == {"encoder", "quantizer", "decoder"}


def test_its_parity_is_an_entry_of_its_own(exported: Path) -> None:
    assert parity(exported, "encode.fp32.onnx") == parity(exported, "encoder.fp32.onnx")
    single, decoder = parity(exported, "encode.int8.onnx"), parity(exported, "decoder.int8.onnx")
    tokens = {name: value for name, value in single.items() if not name.startswith("psnr")}
    assert tokens == parity(exported, "encoder.int8.onnx")
    # Through it a picture loses what it loses through the encoder.
    loss = {name: value for name, value in single.items() if name.startswith("psnr")}
    assert loss.keys() == {"psnr_drop", "psnr_drop_error", "psnr_drop_max"}
    assert loss.items() <= decoder.items()


@pytest.mark.parametrize("way", ["--parity", "--tokenizer"])
def test_verify_measures_it_again(exported: Path, tiny_folder: Path, way: str) -> None:
    result = coda("verify", exported, way, *([tiny_folder] if way == "--tokenizer" else []), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["unmeasured"] == {}
    for precision in ("fp32", "int8"):
        assert told["parity"][f"encode.{precision}.onnx"]["onnxruntime:cpu"]["step_agreement"] > 0.5
    assert "psnr_drop" in told["parity"]["encode.int8.onnx"]["onnxruntime:cpu"]


def test_inspect_shows_it(exported: Path) -> None:
    result = coda("inspect", exported)
    assert result.exit_code == 0, result.output
    (row,) = [line.split() for line in result.stdout.splitlines() if line.split()[:3] == ["encode", "onnx", "fp32"]]
    assert row[-2:] == ["encode.fp32.onnx", "any"]


def test_what_does_not_keep_its_threshold_fails_the_export(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rolled(encoder: onnx.ModelProto, quantizer: onnx.ModelProto) -> onnx.ModelProto:
        joined = real(encoder, quantizer)
        (table,) = [t for t in joined.graph.initializer if t.name.startswith("quantizer/codebook")]
        table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 1, 0), table.name))
        return joined

    real = bundle.encode_graph
    monkeypatch.setattr(bundle, "encode_graph", rolled)
    result = coda("export", tiny_folder, "--out", tmp_path / "bundle", "--single-graph")
    assert result.exit_code == 1
    assert "the fp32 encode agrees with the tokenizer on" in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_is_added_gets_one(exported: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in copy.glob("*.onnx")}
    (copy / "encode.fp16.onnx").write_bytes(b"mine")
    settings = ["--precision", "fp16", "--min-agreement", 0.5, "--min-psnr", 20]
    result = coda("export", tiny_folder, "--into", copy, "--single-graph", *settings)
    assert "holds 'encode.fp16.onnx', which is not the bundle's" in one_line(result)
    (copy / "encode.fp16.onnx").unlink()
    result = coda("export", tiny_folder, "--into", copy, "--single-graph", *settings)
    assert result.exit_code == 0, result.output
    assert before.items() <= {path.name: path.read_bytes() for path in copy.glob("*.onnx")}.items()
    assert parity(copy, "encode.fp16.onnx") == parity(copy, "encoder.fp16.onnx")


# huggingface_hub's own, where an upload does not go by Xet.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_it_goes_to_the_hub_and_comes_back(exported: Path, tmp_path: Path, hub: Hub) -> None:
    push.push(exported, "org/name")
    pull.pull("org/name", tmp_path / "pulled")
    pulled = (tmp_path / "pulled" / "encode.fp32.onnx").read_bytes()
    assert pulled == (exported / "encode.fp32.onnx").read_bytes()
