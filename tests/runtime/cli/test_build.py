"""`coda build`, in a process of its own, with TensorRT-RTX's builder, which needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from coda_runtime.bundle import Bundle
from tests.runtime.cli.conftest import Run

Fails = Callable[..., str]
RTX = ("--engine", "tensorrt-rtx", "--target", "sm89,sm120", "--batch", "1,2,4")


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


def test_the_wrong_way_round(fails: Fails, coda: Run, sealed: Path) -> None:
    assert 'pip install "coda-runtime[tensorrt]"' in fails("build", sealed, "--engine", "tensorrt")
    assert "has no target sm90; it has sm75" in fails("build", sealed, "--engine", "tensorrt-rtx", "--target", "sm90")
    assert "expected MIN,OPT,MAX" in fails("build", sealed, "--engine", "tensorrt-rtx", "--batch", "4,2")
    assert "there is no folder" in fails("build", "missing/", "--engine", "tensorrt-rtx")
    assert coda("build", sealed).returncode == 2
    assert coda("build", sealed, "--engine", "openvino").returncode == 2
