"""`coda build`, in a process of its own, with TensorRT-RTX's builder, which needs no GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.engine_key import with_scratch
from coda_runtime.format.manifest import Artifact, Manifest
from tests.runtime import tiny
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
def test_several_profiles(coda: Run, sealed: Path, tmp_path: Path) -> None:
    two = (*RTX[:-1], "8,16,32", "--batch", "1")
    done = coda("build", sealed, *two, "--out", tmp_path / "out")
    assert done.returncode == 0, done
    first, *parts, last = done.stderr.splitlines()[:5]
    assert first == "device memory of one execution context, by batch profile, estimated from the graph:"
    for part, line in zip(("encoder", "quantizer", "decoder"), parts, strict=True):
        memory = r"[\d.]+ MB of input and output, about [\d.]+ MB to work in"
        assert re.fullmatch(rf"  {part} fp32 +1,1,1: {memory}; 8,16,32: {memory}", line), line
    assert last == "  (fusion and tactics change it: what the library planned is told after the build)"
    planned = re.compile(r"1,1,1 \([\d.]+ MB\) 8,16,32 \([\d.]+ MB\)")
    assert len(planned.findall(done.stdout)) == 3
    assert planned.findall(coda("inspect", tmp_path / "out").stdout) == planned.findall(done.stdout)
    told = coda("build", sealed, *two, "--out", tmp_path / "json", "--json")
    assert told.returncode == 0, told
    report = json.loads(told.stdout)
    assert [entry["profiles"] for entry in report["engines"]] == [[[1, 1, 1], [8, 16, 32]]] * 3
    assert "batch" not in report["engines"][0]
    for part in report["memory"]:
        small, large = part["profiles"]
        assert (small["batch"], large["batch"]) == ([1, 1, 1], [8, 16, 32])
        assert large["io_bytes"] == 32 * small["io_bytes"] > 0
        assert large["activation_bytes"] > small["activation_bytes"] > 0


@needs_rtx
def test_the_wrong_way_round(fails: Fails, coda: Run, sealed: Path) -> None:
    assert 'pip install "tensorrt>=10.9"' in fails("build", sealed, "--engine", "tensorrt")
    assert "has no target sm90; it has sm75" in fails("build", sealed, "--engine", "tensorrt-rtx", "--target", "sm90")
    assert "expected MIN,OPT,MAX" in fails("build", sealed, "--engine", "tensorrt-rtx", "--batch", "4,2")
    twice = ("--batch", "1,2,4", "--batch", "1,2,4")
    assert "has the profile 1,2,4 twice" in fails("build", sealed, "--engine", "tensorrt-rtx", *twice)
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


def test_inspect_shows_what_each_profile_works_in_where_that_is_known(coda: Run, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    artifacts = tiny.write_files(folder)
    made = []
    for part, scratch in (("encoder", [4_000_000, 123_000_000]), ("decoder", None)):
        (folder / f"{part}.engine").write_bytes(b"in the place of an engine")
        about = describe_file(folder, f"{part}.engine")
        engine = Artifact(part, "tensorrt", "fp32", f"{part}.engine", *about, engine={"library": "tensorrt"})
        several = engine.with_profiles([(1, 1, 1), (8, 16, 32)])
        made.append(several if scratch is None else with_scratch(several, scratch))
    seal(folder, Manifest(tiny.SPEC, (*artifacts, *made)))
    shown = coda("inspect", folder).stdout
    assert "1,1,1 (4.0 MB) 8,16,32 (123.0 MB)" in shown
    assert "1,1,1 8,16,32" in shown
