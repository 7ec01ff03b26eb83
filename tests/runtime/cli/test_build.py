"""`coda build`, in a process of its own, with TensorRT-RTX's builder, which needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from coda_runtime.format.bundle import Bundle
from tests.runtime.cli.conftest import Run
from tests.runtime.triton import reading

Fails = Callable[..., str]
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX's builder is not installed"
)
RTX = ("--engine", "tensorrt-rtx", "--target", "sm89,sm120", "--batch", "1,2,4")


@needs_rtx
def test_engines_for_a_bundle(coda: Run, sealed: Path, tmp_path: Path) -> None:
    out = tmp_path / "with engines"
    done = coda("build", sealed, *RTX, "--out", out)
    assert done.returncode == 0, done
    assert "engines/decoder.fp32.tensorrt-rtx-sm89-sm120.engine" in done.stdout
    assert "3 engines added" in done.stdout
    assert done.stdout.count("not run") == 3
    assert done.stderr.startswith("parity was not measured: ")
    assert done.stderr.count("\n") == 1, "one reason, told once"
    Bundle.open(out).verify("always")
    inspected = coda("inspect", out)
    assert inspected.returncode == 0
    assert "tensorrt-rtx" in inspected.stdout
    assert "1,2,4" in inspected.stdout
    assert "sm89" in inspected.stdout


@needs_rtx
def test_json(coda: Run, sealed: Path, tmp_path: Path) -> None:
    done = coda("build", sealed, *RTX, "--precision", "fp32", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done
    report = json.loads(done.stdout)
    assert [entry["part"] for entry in report["engines"]] == ["encoder", "quantizer", "decoder"]
    for entry in report["engines"]:
        assert entry["batch"] == [1, 2, 4]
        assert entry["engine"]["targets"] == ["sm89", "sm120"]
        (numbers,) = entry["parity"].values()
        assert "GPU" in numbers["reason"]


@needs_rtx
def test_the_wrong_way_round(fails: Fails, coda: Run, sealed: Path) -> None:
    assert 'pip install "tensorrt>=11"' in fails("build", sealed, "--engine", "tensorrt")
    assert "has no target sm90; it has sm75" in fails("build", sealed, "--engine", "tensorrt-rtx", "--target", "sm90")
    assert "expected MIN,OPT,MAX" in fails("build", sealed, "--engine", "tensorrt-rtx", "--batch", "4,2")
    assert "there is no folder" in fails("build", "missing/", "--engine", "tensorrt-rtx")
    neither = coda("build", sealed)
    assert neither.returncode == 2
    assert "say what to make: --engine or --triton" in neither.stderr
    assert coda("build", sealed, "--engine", "openvino").returncode == 2


def test_a_repository_for_triton_without_engines(coda: Run, sealed: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models"
    done = coda("build", sealed, "--triton", repo, "--triton-device", "cpu", "--triton-max-batch", 4)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout == (
        f"{repo}: Triton models from onnx files in fp32, images in a batch: encode up to 4, decode up to 4\n"
    )
    assert set(reading.check(repo)) == {"encoder", "quantizer", "decoder", "encode", "decode"}
    again = coda("build", sealed, "--triton", repo, "--json")
    assert again.returncode == 0, again
    report = json.loads(again.stdout)
    assert report["engines"] == []
    assert report["triton"]["folder"] == str(repo)
    assert report["triton"]["max_batch"]["encode"] == 64


@needs_rtx
def test_engines_that_triton_cannot_serve_and_a_repository(coda: Run, sealed: Path, tmp_path: Path) -> None:
    out, repo = tmp_path / "with engines", tmp_path / "models"
    done = coda("build", sealed, *RTX, "--out", out, "--triton", repo)
    assert done.returncode == 0, done
    assert "3 engines added" in done.stdout
    assert done.stderr.splitlines()[0].startswith("triton: ONNX files are served, not TensorRT engines: ")
    reading.check(repo)


def test_the_wrong_way_round_with_triton(fails: Fails, sealed: Path, tmp_path: Path) -> None:
    asked = ("--triton", tmp_path / "models")
    assert "no repository is requested: add --triton REPO" in fails("build", sealed, "--triton-max-batch", 4)
    assert "--batch says how engines are built" in fails("build", sealed, *asked, "--batch", "1,2,4")
    assert "--out says how engines are built" in fails("build", sealed, *asked, "--out", tmp_path / "out")
    told = fails("build", sealed, *RTX, *asked, "--out", tmp_path / "out", "--triton-format", "tensorrt")
    assert "none is built: add --engine tensorrt" in told
    assert "one inside the other" in fails("build", sealed, "--triton", sealed / "models")
    assert list(tmp_path.glob("*")) == [tmp_path / "work"]
