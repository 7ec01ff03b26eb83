"""One table of several GPUs. The files here are made up, and say so; those of benchmarks/results are measured."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.gpu import fleet

ROOT = Path(__file__).parents[2]
MEASURED = sorted((ROOT / "benchmarks" / "results").glob("gpu-*.json"))


def made_up(device: str, factor: float) -> dict[str, Any]:
    """What a GPU that does not exist would have sent in."""
    base = {"shape": "mar_v16384", "clock": "host", "parity": {"step_agreement": 1.0}, "repeats": 40}
    rows = [
        {**base, "contender": contender, "precision": precision, "operation": operation, "batch": batch,
         "median_ms": ms * batch**0.9 / factor, "p99_ms": None, "p99_upper_ms": None}
        for contender, precision, ms in (("onnxruntime", "fp32", 10.0), ("torch-eager", "fp32", 14.0),
                                         ("tensorrt", "bf16", 3.0))
        for operation in ("encode", "decode")
        for batch in (1, 32)
    ]  # fmt: skip
    rows.append({**base, "contender": "tensorrt", "precision": "fp32", "operation": "encode", "batch": 1,
                 "reason": "made up"})  # fmt: skip
    machine = {"device": f"Made-up {device}", "date": "2026-01-01", "cpu": "made up", "libraries": {}, "ceilings": {}}
    smi = {"driver_version": "1.0"}
    return {"machine": {**machine, "nvidia_smi_after_ceilings": smi}, "settings": {}, "problems": {}, "rows": rows}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    out = []
    for device, factor in (("A10", 1.0), ("B200", 4.0), ("L4", 0.5)):
        path = tmp_path / f"{device}.json"
        path.write_text(json.dumps(made_up(device, factor)))
        out.append(path)
    return out


def test_a_row_for_each_gpu_and_precision(files: list[Path]) -> None:
    found = fleet.entries([fleet.read(path) for path in files], {"B200": 4.0, "A10": 1.0})
    assert [(entry.device, entry.precision) for entry in found] == [
        ("Made-up B200", "bf16"), ("Made-up A10", "bf16"), ("Made-up L4", "bf16"),
        ("Made-up B200", "fp32"), ("Made-up A10", "fp32"), ("Made-up L4", "fp32"),
    ]  # fmt: skip
    fastest = found[3].encode
    assert fastest is not None
    assert (fastest.contender, fastest.batch, fastest.repeats) == ("onnxruntime", 32, 40)
    rate = 1e3 * 32**0.1 / 10 * 4
    assert fastest.images_per_second == pytest.approx(rate)
    assert found[3].per_dollar == pytest.approx(rate * 3600 / 4)
    assert found[5].per_dollar is None, "nobody gave the price of an L4"
    text = fleet.table(found)
    assert text.count("\n") == 7
    assert f"| Made-up B200 | mar_v16384 | fp32 | {rate:,.0f} (onnxruntime, batch 32, 40 calls) |" in text
    assert "dollar" not in fleet.table(fleet.entries([fleet.read(files[0])], {}))


def test_the_command_prints_and_draws(files: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "table", *map(str, files)]
    svg = tmp_path / "chart.svg"
    done = subprocess.run(
        [*command, "--price", "L4=0.8", "--svg", str(svg)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "images encoded for a dollar" in done.stdout
    root = ElementTree.fromstring(svg.read_text())
    assert len(root.findall(".//{*}rect[@class='series c1']")) == 6
    wrong = subprocess.run([*command, "--price", "L4"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr == "error: --price is 'L4'; expected a GPU's name and dollars an hour, such as H200=3.5\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("machine"), r"machine: found NoneType, expected an object"),
        (lambda d: d["machine"].update(device=None), r"machine.device: found NoneType, expected str"),
        (lambda d: d.update(rows=[]), "rows: found none, expected a list of rows"),
        (lambda d: d["rows"][2].pop("median_ms"), r"rows\[2\].median_ms: found NoneType, expected a number"),
        (lambda d: d["rows"][2].update(median_ms=0), r"rows\[2\].median_ms: found 0, expected milliseconds over 0"),
        (lambda d: d["rows"][1].update(batch=True), r"rows\[1\].batch: found bool, expected int"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(change: Any, words: str, tmp_path: Path) -> None:
    data = copy.deepcopy(made_up("A10", 1.0))
    change(data)
    path = tmp_path / "sent.json"
    path.write_text(json.dumps(data))
    with pytest.raises(fleet.ResultError, match=rf"sent.json: {words}"):
        fleet.read(path)
    path.write_text("[")
    with pytest.raises(fleet.ResultError, match="cannot be read as JSON"):
        fleet.read(path)


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_results_that_were_sent_in_are_sound(path: Path) -> None:
    data = fleet.read(path)
    assert "Made-up" not in data["machine"]["device"]
    fleet.table(fleet.entries([data], {}))
