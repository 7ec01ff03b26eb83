"""`coda tune`, in a process of its own, on the real engines that are here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import coda_runtime
from coda_runtime import tuned
from coda_runtime.backends.registry import is_automatic
from coda_runtime.cli import app
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.parts import PARTS, QUANTIZER
from coda_runtime.format.precision import FP32
from coda_runtime.machine.processors import usable_cpus
from coda_runtime.tuned import Figures, Setting, Tuned
from tests.runtime import measurable, tiny
from tests.runtime.cli.conftest import CODE, Run

FAST = ("--device", "cpu", "--backend", "onnxruntime", "--seconds", "0.01", "--repeat-process", "1", "--busy")
ROW = {
    "operation", "precision", "backend", "threads", "batch", "latency_s", "images_per_s", "processes", "disturbed",
    "unasked", "best",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with samples; not to be changed."""
    return measurable.make(tmp_path_factory.mktemp("measurable") / "bundle")


def record(bundle: Path) -> Path:
    return tuned.record_path(Bundle.open(bundle), "cpu")


def test_help_has_an_example() -> None:
    done = CliRunner().invoke(app.cli, ["tune", "--help"])
    assert done.exit_code == 0
    assert "Example:\n    coda tune bundle" in done.stdout
    assert "--max-psnr-drop" in done.stdout


def test_measured_shown_recorded_followed_and_forgotten(coda: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    done = coda("tune", bundle, *FAST, "--threads", "1", "--images", photos)
    assert done.returncode == 0, done
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["operation", "precision", "backend", "threads", "batch", "median", "images/s", "processes"]
    assert [line.split()[:6] for line in lines if line.startswith("best")] == [
        ["best", operation, "fp32", "onnxruntime", "1", "1"] for operation in ("encode", "decode")
    ]
    assert lines[-1] == f"{record(bundle)}: written; backend auto and threads follow it on this machine"
    with coda_runtime.load(bundle, "cpu") as tok:
        assert [(of.backend, of.tuned) for of in tok.artifacts] == [("onnxruntime", True)] * 3
    tokens = tmp_path / "tokens.npz"
    assert coda("encode", bundle, photos, "--out", tokens, "--device", "cpu").returncode == 0
    shown = coda("inspect", bundle)
    assert "tuned on cpu" in shown.stdout
    assert "fp32: encoder onnxruntime 1; quantizer onnxruntime 1; decoder onnxruntime 1; encode" in shown.stdout
    report = json.loads(coda("doctor", "--json").stdout)["tuning"]
    assert report == {"folder": str(record(bundle).parent), "records": 1}
    forgotten = coda("tune", bundle, "--device", "cpu", "--forget")
    assert (forgotten.returncode, forgotten.stdout) == (0, f"{record(bundle)}: removed\n")
    assert coda("tune", bundle, "--device", "cpu", "--forget").stdout == "nothing is recorded\n"
    with coda_runtime.load(bundle, "cpu") as tok:
        assert not any(of.tuned for of in tok.artifacts)


def test_every_backend_that_is_here_is_measured_or_told(coda: Run, bundle: Path) -> None:
    quick = ("--threads", "1", "--seconds", "0.01", "--repeat-process", "1", "--busy")
    done = coda("tune", bundle, "--device", "cpu", *quick, "--json")
    assert done.returncode == 0, done
    data: dict[str, Any] = json.loads(done.stdout)
    assert data.keys() == {
        "record", "bundle", "bundle_key", "device", "aim", "facts", "default_precision", "rows", "best", "psnr_drop",
        "skipped", "warnings",
    }  # fmt: skip
    assert all(of.keys() == ROW for of in data["rows"])
    assert (data["device"], data["aim"], data["default_precision"]) == ("cpu", "the lowest latency", "fp32")
    asked = {of["backend"] for of in (*data["rows"], *data["skipped"])}
    assert "onnxruntime" in asked
    assert all(map(is_automatic, asked))
    assert {of["threads"] for of in data["rows"]} == {1}
    assert json.loads(Path(data["record"]).read_text())["precisions"] == data["best"]
    assert sum(of["best"] for of in data["rows"]) == 2


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
def test_a_backend_that_auto_takes_by_a_record_alone(bundle: Path) -> None:
    """OpenVINO, in fp32; quantizers stay on ONNX Runtime, which alone searches in them."""
    opened = Bundle.open(bundle)
    parts = {part: Setting("onnxruntime" if part == QUANTIZER.name else "openvino", 1) for part in PARTS}
    figures = dict.fromkeys(tuned.TUNED, Figures(1, 0.01, 100.0, 3, False))
    tuned.save(tuned.make_record(opened, "cpu", "a test", {FP32: Tuned(parts, figures)}), opened)
    with coda_runtime.load(bundle, "cpu") as tok:
        assert {of.part: of.backend for of in tok.artifacts} == {part: of.backend for part, of in parts.items()}
        assert all(of.tuned for of in tok.artifacts)
    with coda_runtime.load(bundle, "cpu", ignore_tuning=True) as tok:
        assert {of.backend for of in tok.artifacts} == {"onnxruntime"}


def test_a_bound_that_nothing_keeps(coda: Run, bundle: Path) -> None:
    """It fails, and leaves what was recorded before."""
    assert coda("tune", bundle, *FAST, "--threads", "1").returncode == 0
    before = record(bundle).read_bytes()
    done = coda("tune", bundle, *FAST, "--threads", "1", "--batch", "1", "--latency", "0.000001")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: no setting of encode in fp32 takes under 1e-06 ms, the fastest")
    assert "best" not in done.stdout
    assert record(bundle).read_bytes() == before


def test_a_dry_run_records_nothing(coda: Run, bundle: Path) -> None:
    done = coda("tune", bundle, *FAST, "--threads", "1", "--dry-run", "--throughput", "--batch", "2,1", "--json")
    assert done.returncode == 0, done
    data = json.loads(done.stdout)
    assert {(of["operation"], of["batch"]) for of in data["rows"]} == {
        (operation, batch) for operation in tuned.TUNED for batch in (1, 2)
    }
    assert data["record"] is None
    assert data["aim"] == "the most images per second"
    assert not record(bundle).exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--latency", "5", "--throughput"), "--latency and --throughput exclude each other"),
        (("--latency", "0"), "the latency is 0 ms; expected milliseconds, over 0"),
        (("--batch", "0"), "batch is 0; expected whole numbers from 1"),
        (("--batch", "x"), "--batch is 'x'"),
        (("--threads", "x"), "--threads is 'x'"),
        (("--threads", "100000"), "threads is 100000; expected auto"),
        (("--backend", "cuda"), "backend is 'cuda'; expected some of those"),
        (("--precision", "fp16"), "precision is 'fp16'; this bundle has"),
        (("--device", "gpu"), "device is 'gpu'"),
        (("--max-psnr-drop", "-1"), "the PSNR may drop by -1 dB"),
        (("--timeout", "0"), "--timeout is 0"),
        (("--images", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_asked_for(fails: Callable[..., str], bundle: Path, words: tuple[str, ...], told: str) -> None:
    assert told in fails("tune", bundle, *words)
    assert not record(bundle).exists()


def test_a_bundle_without_samples(fails: Callable[..., str], tmp_path: Path) -> None:
    told = fails("tune", tiny.make_bundle(tmp_path / "bundle"))
    assert "name a folder of them: --images DIR" in told


def test_a_record_that_does_not_hold_is_one_line(coda: Run, bundle: Path, photos: Path, tmp_path: Path) -> None:
    assert coda("tune", bundle, *FAST, "--threads", "1").returncode == 0
    record(bundle).write_text("{")
    done = coda("encode", bundle, photos, "--out", tmp_path / "tokens.npz", "--device", "cpu", python=())
    assert done.returncode == 0, done
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: the record of `coda tune` in {record(bundle)} is not followed: it is not JSON")
    assert line.endswith(f"measure again: coda tune {bundle}")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_an_interrupt_leaves_the_earlier_record(coda: Run, bundle: Path, tmp_path: Path) -> None:
    assert coda("tune", bundle, *FAST, "--threads", "1").returncode == 0
    before = record(bundle).read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", CODE, "tune", str(bundle), "--device", "cpu", "--seconds", "60"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)})
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    deadline = time.monotonic() + 60
    while not any(map(_is_worker, children.read_text().split())) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "error: interrupted\n")
    assert record(bundle).read_bytes() == before
    assert [path.name for path in record(bundle).parent.iterdir()] == [record(bundle).name]
    assert list(scratch.iterdir()) == []


def _is_worker(pid: str) -> bool:
    try:
        return "coda_runtime.bench.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return False


def test_what_other_work_disturbed_is_not_recorded(coda: Run, bundle: Path) -> None:
    """Another process computes meanwhile, on every processor."""
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in usable_cpus()]
    try:
        done = coda("tune", bundle, *(word for word in FAST if word != "--busy"), "--threads", "1")
        same = coda("tune", bundle, *FAST, "--threads", "1", "--json")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert done.returncode == 3, done
    assert "disturbed" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("warning: nothing is recorded for it; run it again when")
    assert same.returncode == 0, same
    assert Path(json.loads(same.stdout)["record"]) == record(bundle)
