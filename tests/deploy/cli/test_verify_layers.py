"""`coda verify --layers`, from the command line to coda-deploy and back."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest

from coda_runtime.cli.layers import layer_rows
from tests.deploy.cli.command import coda, one_line
from tests.export.layers.spoilt import changed, one_weight
from tests.export.layers.test_bundle import CONV, with_graph


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point as pyproject.toml has it, whatever is installed."""
    written = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    point = metadata.EntryPoint("layers", written["project"]["entry-points"]["coda.verify"]["layers"], "coda.verify")
    monkeypatch.setattr(metadata, "entry_points", lambda **asked: [point] if asked.get("name") == "layers" else [])


def test_a_table_of_both_parts(tiny_bundle: Path) -> None:
    done = coda("verify", tiny_bundle, "--layers", "--precision", "fp16", "--threads", "1")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert "encoder, fp16 on onnxruntime beside fp32 on onnxruntime" in lines
    assert "decoder, fp16 on onnxruntime beside fp32 on onnxruntime" in lines
    assert lines[-1] == "all files are intact, and every layer keeps its bound"
    (row,) = [line.split() for line in lines if line.split()[:1] == [CONV]]
    assert row[1:3] != row[3:5]


def test_json_and_the_first_layer_that_is_off(tiny_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    spoilt = with_graph(
        tiny_bundle,
        tmp_path / "bundle",
        "encoder.fp32.onnx",
        changed(onnx.load(tiny_bundle / "encoder.fp32.onnx"), f"{CONV}.weight", one_weight),
    )
    done = coda("verify", spoilt, "--layers", "--tokenizer", tiny_folder, "--json")
    line = one_line(done, silent=False)
    assert (
        f"the fp32 encoder on onnxruntime first leaves its bound at {CONV}: given what the tokenizer gives it" in line
    )
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is False
    encoder, decoder = report["layers"]
    assert (encoder["first"], decoder["first"]) == (CONV, None)
    assert [figures["layer"] for figures in encoder["layers"] if not figures["within"]] == [CONV]
    shown = coda("verify", spoilt, "--layers", "--tokenizer", tiny_folder).stdout
    assert [text for text in shown.splitlines() if "OFF, the first" in text] == [
        text for text in shown.splitlines() if text.startswith(f"{CONV} ")
    ]


def test_without_coda_deploy_the_pip_line(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [])
    line = one_line(coda("verify", tiny_bundle, "--layers"))
    assert line.startswith("error: comparing layers needs coda-deploy, which is not installed; ")


@pytest.mark.parametrize("other", [["--parity"], ["--record"], ["--parity-images", "."]])
def test_one_question_at_a_time(tiny_bundle: Path, other: list[str]) -> None:
    done = coda("verify", tiny_bundle, "--layers", *other)
    assert done.exit_code == 2
    assert f"leave out {other[0]}" in done.stderr


def test_a_precision_is_for_layers(tiny_bundle: Path) -> None:
    done = coda("verify", tiny_bundle, "--precision", "fp16")
    assert done.exit_code == 2
    assert "--precision needs --layers" in done.stderr


def test_what_is_not_finite_is_written_so() -> None:
    figures: Any = {"layer": "a", "error": None, "own": None, "bound": 0.1, "psnr": None, "cosine": None}
    (row,) = layer_rows([figures | {"growth": None, "within": False}])
    assert row == ["a", "not finite", "", "not finite", "10 %", "", "", "OFF, the first"]
    second = layer_rows([figures | {"growth": 2.0, "within": False}] * 2)[1]
    assert (second[2], second[-1]) == ("2.0 x", "off")
