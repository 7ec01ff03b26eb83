"""`coda bench`, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from coda_runtime.bench.results import Results
from coda_runtime.cli import app
from tests.runtime import measurable, tiny
from tests.runtime.cli.conftest import CODE, Run

FAST = ("--seconds", "0.02", "--device", "cpu", "--threads", "1", "--batch", "1,2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("measurable") / "bundle")


@pytest.mark.parametrize("name", [(), ("run",), ("report",), ("compare",)])
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
    assert again.returncode == 0, again
    assert "0 of 4 measurements" in again.stdout
    page = tmp_path / "report.html"
    assert coda("bench", "report", out, out, "--out", page).returncode == 0
    assert "<html" in page.read_text()


def test_a_regression_is_exit_code_1(coda: Run, bundle: Path, tmp_path: Path) -> None:
    done = coda("bench", "run", bundle, *FAST, "--operation", "decode", "--batch", "1", "--json")
    assert done.returncode == 0, done
    before = json.loads(done.stdout)
    (tmp_path / "a.json").write_text(done.stdout)
    latency = before["cells"][0]["measurements"][0]["latency_s"]
    for name, value in latency.items():
        if name not in ("samples_thinned",):
            latency[name] = [10 * part for part in value] if isinstance(value, list) else 10 * value
    (tmp_path / "b.json").write_text(json.dumps(before))
    slower = coda("bench", "compare", tmp_path / "a.json", tmp_path / "b.json", "--threshold", "50%")
    assert slower.returncode == 1
    assert "slower" in slower.stdout
    assert "regression" in slower.stdout
    report = coda("bench", "compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert report.returncode == 1
    assert len(json.loads(report.stdout)["regressions"]) == 1
    assert coda("bench", "compare", tmp_path / "b.json", tmp_path / "a.json").returncode == 0


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
