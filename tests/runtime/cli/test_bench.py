"""`coda bench`, in a process of its own."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from coda_runtime.bench.results import Results
from coda_runtime.cli import app
from coda_runtime.report.words import duration
from tests.runtime import measurable, tiny
from tests.runtime.bench import examples
from tests.runtime.bench.gpu_examples import gpu_json
from tests.runtime.cli.conftest import CODE, Run

WORK = ("--seconds", "0.02", "--batch", "1,2")
FAST = (*WORK, "--device", "cpu", "--threads", "1", "--repeat-process", "1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("measurable") / "bundle")


@pytest.mark.parametrize("name", [(), ("run",), ("report",), ("compare",), ("ab",), ("convert",)])
def test_help_has_an_example(name: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app.cli, ["bench", *name, "--help"])
    assert done.exit_code == 0
    assert f"Example:\n    {' '.join(['coda bench', *name])}" in done.stdout
    assert "--debug" in done.stdout


def test_measured_shown_reported_and_compared(coda: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results.json"
    done = coda("bench", "run", bundle, *FAST, "--precision", "fp32,bf16", "--images", photos, "--out", out)
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    assert [line for line in done.stdout.splitlines() if "encode" in line and "single-stream" in line]
    assert f"{out}: written" in done.stdout
    assert "not run: " in done.stderr
    assert "precision is 'bf16'" in done.stderr
    results = Results.load(out).data
    assert results["command"][:3] == ["coda", "bench", "run"]
    assert results["images"]["count"] == 5
    assert results["images"]["source"] == str(photos)
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.json"]
    again = coda("bench", "compare", out, out)
    assert again.returncode == 3, again
    assert "processes: 1 and 1; a verdict needs 5" in again.stdout
    assert "inconclusive: 4 of 4 measurements compared" in again.stdout
    page = tmp_path / "report.html"
    assert coda("bench", "report", out, out, "--out", page).returncode == 0
    assert "<html" in page.read_text()


@pytest.fixture
def conclusive(coda: Run, bundle: Path) -> dict[str, Any]:
    """A measurement as processes of a quiet machine would give it: what was measured, over and over."""
    done = coda("bench", "run", bundle, *FAST, "--operation", "decode", "--batch", "1", "--json")
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    of = found["cells"][0]["measurements"][0]
    of["processes"] = [{**of["processes"][0], "reference_s": [0.01, 0.01], "others": 0.0}] * 7
    found["noise"].update(load_before=0.0, load_during=0.0)
    return found


def test_exit_codes(coda: Run, conclusive: dict[str, Any], tmp_path: Path) -> None:
    def changed(name: str, factor: float = 1.0, **noise: float) -> Path:
        data = copy.deepcopy(conclusive)
        for process in data["cells"][0]["measurements"][0]["processes"]:
            process["p50"] *= factor
        data["noise"].update(noise)
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return path

    before = changed("a.json")
    slower = coda("bench", "compare", before, changed("b.json", 10.0), "--threshold", "0.5")
    assert slower.returncode == 1
    assert "slower" in slower.stdout
    assert "regression: 1 of 1 measurement compared, 1 past 0.5" in slower.stdout
    report = coda("bench", "compare", before, tmp_path / "b.json", "--json", "--threshold", "50%")
    assert report.returncode == 1
    assert len(json.loads(report.stdout)["regressions"]) == 1
    assert json.loads(report.stdout)["outcome"] == "regression"
    assert coda("bench", "compare", tmp_path / "b.json", before).returncode == 0
    busy = changed("busy.json", load_during=0.5)
    assert coda("bench", "compare", before, busy).returncode == 3
    assert coda("bench", "compare", before, busy, "--allow-inconclusive").returncode == 0
    none = {**conclusive, "cells": []}
    (tmp_path / "none.json").write_text(json.dumps(none))
    missing = coda("bench", "compare", before, tmp_path / "none.json")
    assert missing.returncode == 4
    assert "nothing to compare: 0 of 1 measurement compared" in missing.stdout
    assert coda("bench", "compare", before).returncode == 2


def test_cells_of_one_run(coda: Run, conclusive: dict[str, Any], tmp_path: Path) -> None:
    data = copy.deepcopy(conclusive)
    data["cells"].append({**copy.deepcopy(data["cells"][0]), "threads": 2})
    (tmp_path / "two.json").write_text(json.dumps(data))
    found = coda("bench", "compare", tmp_path / "two.json", "--by", "threads")
    assert found.returncode == 0, found
    assert "1 to 2 threads" in found.stdout
    assert coda("bench", "compare", tmp_path / "two.json", "--by", "precision").returncode == 1


def test_other_tools_read_it(coda: Run, conclusive: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(conclusive))
    out = tmp_path / "out.json"
    convert = ("bench", "convert", tmp_path / "a.json", "--to")
    assert coda(*convert, "github-action-benchmark", "--out", out).returncode == 0
    (point,) = json.loads(out.read_text())
    median = conclusive["cells"][0]["measurements"][0]["latency_s"]["p50"]
    assert (point["unit"], point["value"]) == ("ms", pytest.approx(1e3 * median))
    assert point["name"] == "decode, single-stream, batch 1 (auto fp32 cpu 1 thread)"
    # pytest-benchmark itself reads the other.
    stored = tmp_path / ".benchmarks" / "machine" / "0001_a.json"
    assert coda(*convert, "pytest-benchmark", "--out", stored).returncode == 0
    command = [sys.executable, "-m", "pytest_benchmark", "--storage", str(tmp_path / ".benchmarks"), "compare"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "decode, single-stream, batch 1" in done.stdout + done.stderr


def test_files_of_the_other_tool(coda: Run, fails: Callable[..., str], tmp_path: Path) -> None:
    shapes = ("mar_v16384", "sample")
    a, b, cut, page = (tmp_path / name for name in ("a.json", "b.json", "cut.json", "page.html"))
    a.write_text(json.dumps(gpu_json(shapes=shapes)))
    b.write_text(json.dumps(gpu_json("B200", 4.0, shapes)))
    found = coda("bench", "compare", a, b)
    assert found.returncode == 3, found
    assert "inconclusive: 24 of 24 measurements compared" in found.stdout
    assert "encode, single-stream, batch 32 (sample: tensorrt bf16 cuda:0)" in found.stdout
    assert "note: GPU 0 is Made-up A10, driver 1.0 in A and Made-up B200, driver 1.0 in B" in found.stderr
    by = coda("bench", "compare", a, "--by", "backend", "--json")
    assert by.returncode == 3, by
    assert {row["bundle"] for row in json.loads(by.stdout)["rows"]} == set(shapes)
    assert coda("bench", "report", a, b, "--out", page).returncode == 0
    text = page.read_text()
    assert all(f"{name}.json ({shape})" in text for name in "ab" for shape in shapes)
    cut.write_text(a.read_text()[:-9])
    assert "cut.json is not JSON" in fails("bench", "compare", a, cut)
    cut.write_text(json.dumps({**gpu_json(), "format_version": 2}))
    assert "format_version is 2, and this coda reads 1 of coda-gpu" in fails(
        "bench", "report", cut, "--out", tmp_path / "no.html"
    )


def test_from_files_to_ids(coda: Run, bundle: Path, photos: Path) -> None:
    work = (*FAST, "--operation", "encode-files,encode", "--batch", "2")
    done = coda("bench", "run", bundle, *work, "--images", photos, "--json")
    assert done.returncode == 0, done
    files, pixels = json.loads(done.stdout)["cells"][0]["measurements"]
    assert set(files["parts_s"]) == {"encoder", "quantizer", "files", "runtime"}
    assert files["parts_s"]["files"] > 0
    assert set(pixels["parts_s"]) == {"encoder", "quantizer", "runtime"}


def test_copies_have_columns_where_there_is_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examples.results()
    monkeypatch.setattr("coda_runtime.bench.run.run_bench", lambda *_, **__: found)
    done = CliRunner().invoke(app.cli, ["bench", "run", str(bundle)])
    assert done.exit_code == 0, done.output
    head, *lines = done.stdout.splitlines()
    assert head.split("GPU memory")[1].split("  ") == ["", "host to device", "compute", "device to host"]
    (line,) = [line for line in lines if re.match(r"tensorrt fp16 cuda:0 +encode +single-stream +1 ", line)]
    (of,) = [
        of
        for of in found.data["cells"][2]["measurements"]
        if (of["operation"], of["scenario"], of["batch"]) == ("encode", "single-stream", 1)
    ]
    assert line.endswith(duration((of["transfers_s"] or {})["device_to_host"] or 0))
    for cell in found.data["cells"]:
        for of in cell["measurements"]:
            of["transfers_s"] = None
    assert "host to device" not in CliRunner().invoke(app.cli, ["bench", "run", str(bundle)]).output


def test_two_settings_in_turn(coda: Run, bundle: Path) -> None:
    work = (*WORK, "--operation", "decode", "--set-a", "threads=1", "--set-b", "threads=2")
    done = coda("bench", "ab", bundle, bundle, *work, "--pairs", "2", "--json")
    assert done.returncode == 3, done
    found = json.loads(done.stdout)
    assert [row["batch"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert row["verdict"] == "inconclusive"
        # Whichever other work of the machine disturbed does not count, unless that is both.
        assert row["reason"] in ("1 pair of processes; a verdict needs 8", "2 pairs of processes; a verdict needs 8")
        assert {"median", "decoder"} <= {metric["name"] for metric in row["metrics"]}
    assert [found["a"], found["b"]] == [f"{bundle} threads=1", f"{bundle} threads=2"]


def rejected(*arguments: object) -> str:
    done = CliRunner().invoke(app.cli, ["bench", *map(str, arguments)])
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_cannot_be_is_reported_in_one_line(bundle: Path, sealed: Path, tmp_path: Path) -> None:
    assert "--images DIR" in rejected("run", sealed)
    assert "there is no folder" in rejected("run", "missing/")
    assert "operation is 'x'" in rejected("run", bundle, "--operation", "x")
    assert "--batch is '1,many'; expected whole numbers" in rejected("run", bundle, "--batch", "1,many")
    assert "--backend is ','" in rejected("run", bundle, "--backend", ",")
    assert "--latency-bound MS" in rejected("run", bundle, "--scenario", "server")
    assert "--timeout is 0" in rejected("run", bundle, "--timeout", "0")
    assert "nothing of" in rejected("run", bundle, "--precision", "fp16", "--seconds", "0.02")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in rejected("run", bundle, "--out", tmp_path / "file" / "out.json")
    picture = tmp_path / "a.png"
    Image.fromarray(tiny.photos(1)[0]).save(picture)
    assert "would overwrite it" in rejected("run", bundle, "--images", picture, "--out", picture)
    assert "--threshold is 'much'" in rejected("compare", "a", "b", "--threshold", "much")
    assert "cannot be read" in rejected("compare", "a", "b")
    assert "--set-a is 'cores=2'" in rejected("ab", bundle, bundle, "--set-a", "cores=2")
    assert "several cells" in rejected("ab", bundle, bundle, "--set-b", "threads=1,2", "--batch", "1")
    assert "--python-b is nowhere" in rejected("ab", bundle, bundle, "--python-b", "nowhere")
    assert CliRunner().invoke(app.cli, ["bench", "run", str(bundle), "--nothing"]).exit_code == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "file"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "results.json"
    scratch.mkdir()
    command = [sys.executable, "-c", CODE, "bench", "run", str(bundle), "--seconds", "600", "--out", str(out)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not (workers := _workers(child.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "error: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert list(scratch.iterdir()) == []
    # A worker that outlived its parent by a moment is gone when init has seen it end.
    deadline = time.monotonic() + 10
    while (left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _workers(parent: int) -> list[int]:
    """Workers that `parent` started; it asks other programs about the machine before, and those end by themselves."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    children = [int(pid) for pid in found.read_text().split()] if found.exists() else []
    return [pid for pid in children if "coda_runtime.bench.worker" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""
