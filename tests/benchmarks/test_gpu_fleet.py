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
from coda_runtime.bench.reading import read_results
from coda_runtime.bench.results import Results
from coda_runtime.errors import InputError
from tests.runtime.bench.examples import document
from tests.runtime.bench.gpu_examples import early, gpu_json

ROOT = Path(__file__).parents[2]
MEASURED = sorted((ROOT / "benchmarks" / "results").glob("gpu-*.json"))


def entries(*paths: Path, **prices: float) -> list[fleet.Entry]:
    return fleet.entries([of for path in paths for of in read_results(path)], prices)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """What GPUs that do not exist would have sent in, one of them before the file had a version."""
    out = []
    for device, factor in (("A10", 1.0), ("B200", 4.0), ("L4", 0.5)):
        path = tmp_path / f"{device}.json"
        data = gpu_json(device, factor)
        path.write_text(json.dumps(early(data) if device == "L4" else data))
        out.append(path)
    return out


def test_a_row_for_each_gpu_and_precision(files: list[Path]) -> None:
    found = entries(*files, B200=4.0, A10=1.0)
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
    assert "| 1.0, 2026-01-01 |" in text
    assert "dollar" not in fleet.table(entries(files[0]))


def test_a_price_is_of_the_gpu_that_it_names_best(files: list[Path]) -> None:
    found = entries(*files, **{"A10": 1.0, "up A10": 2.0})
    assert {entry.price for entry in found} == {2.0, None}
    with pytest.raises(InputError, match="--price names 'H100'; expected whole words of Made-up A10 or"):
        entries(*files, H100=3.0)


@pytest.mark.parametrize(("name", "other"), [("A10", "A100-SXM4-80GB"), ("L4", "L40S"), ("4090", "RTX4090 D")])
def test_a_price_is_of_no_gpu_whose_name_only_begins_or_ends_so(name: str, other: str) -> None:
    found = fleet.entries([of for device in (name, other) for of in _read(gpu_json(device))], {name: 0.75})
    assert {entry.device: entry.price for entry in found} == {f"Made-up {name}": 0.75, f"Made-up {other}": None}
    with pytest.raises(InputError, match=f"--price names '{name}'; expected whole words of Made-up {other}"):
        fleet.entries(_read(gpu_json(other)), {name: 0.75})


def test_results_of_coda_bench_are_rows_too(files: list[Path], tmp_path: Path) -> None:
    data: dict[str, Any] = copy.deepcopy(document())  # type: ignore[assignment]
    data["bundle"]["spec"]["variant"] = "mar_v16384"
    data["cells"][0].update(backend="auto")  # which became onnxruntime
    of_bench = tmp_path / "results.json"
    of_bench.write_text(json.dumps(data))
    found = entries(files[0], of_bench)
    assert {(entry.device, entry.precision) for entry in found} == {
        ("Made-up A10", "fp32"),
        ("Made-up A10", "bf16"),
        ("Example GPU", "fp16"),
        ("Example Processor 9000", "fp32"),
        ("Example Processor 9000", "bf16"),
    }
    gpu = next(entry for entry in found if entry.precision == "fp16")
    measured = [of for of in data["cells"][2]["measurements"] if of["operation"] == "encode"]
    best = max(of["throughput"] for of in measured if of["scenario"] == "single-stream")
    assert gpu.encode is not None
    assert (gpu.encode.images_per_second, gpu.encode.batch) == (best, 32)
    assert (gpu.driver, gpu.date) == ("580.10", "2026-11-22")
    cpu = next(entry for entry in found if entry.device == "Example Processor 9000" and entry.precision == "fp32")
    assert cpu.encode is not None
    assert cpu.encode.contender == "onnxruntime"


def test_a_name_cannot_break_the_table() -> None:
    data = gpu_json("A|10")
    text = fleet.table(fleet.entries([Results.check(of.data) for of in _read(data)], {}))
    assert {line.count("|") for line in text.splitlines()} == {7}


def _read(data: dict[str, Any]) -> list[Results]:
    from coda_runtime.bench.gpu_results import from_gpu_json

    return from_gpu_json(data)


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
    for wrong, words in (
        (("--price", "L4"), "--price is 'L4'; expected a GPU's name and dollars an hour, such as H200=3.5"),
        ((str(tmp_path / "none.json"),), f"{tmp_path / 'none.json'} cannot be read"),
    ):
        refused = subprocess.run([*command, *wrong], cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: {words}")
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_results_that_were_sent_in_are_sound(path: Path) -> None:
    found = read_results(path)
    assert not any("Made-up" in gpu["name"] for of in found for gpu in of.data["machine"]["gpus"])
    fleet.table(fleet.entries(found, {}))
