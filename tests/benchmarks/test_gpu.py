"""The GPU measurement's flow, on the CPU with a tiny tokenizer; what it measures there means nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.measure import Rows
from benchmarks.gpu.plan import contenders, families
from benchmarks.gpu.report import markdown, table
from benchmarks.gpu.stage import in_child
from benchmarks.gpu.timing import measure
from benchmarks.gpu.wheels import join

ROOT = Path(__file__).parents[2]
FAMILIES = families(["fp32"])
KEY = ("tiny", "torch-eager", "fp32", "encoder", "device", 1)


def run(folder: Path, *arguments: str, bundle: Path | None = None) -> dict[str, Any]:
    """One call; with ``bundle``, exporting is left out, and the kernels are a stub, which no CPU loads."""
    command = [sys.executable, "-m", "benchmarks.gpu", "run", "--shapes", "tiny", "--seconds", "0.01"]
    if bundle is not None:
        shutil.copytree(bundle, folder / "work" / "tiny" / "bundle")
        (folder / "kernels").mkdir()
        for target in ("sm80", "sm90"):
            (folder / "kernels" / f"tiny.{target}.ptx").write_text("//")
            (folder / "kernels" / f"tiny.{target}.json").write_text(json.dumps({"targets": [target]}))
        command += ["--kernels", str(folder / "kernels")]
    command += ["--work", str(folder / "work"), "--out", str(folder / "out"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run:" in done.stdout
    result: dict[str, Any] = json.loads((folder / "out" / "gpu.json").read_text())
    return result


def test_flow(tiny_bundle: Path, tmp_path: Path) -> None:
    # Without torch.compile, whose tracing takes as long as all of the rest.
    measured = [name for name in FAMILIES if name != "compile"]
    flags = "--device cpu --batches 3 --precisions fp32 --families"
    result = run(tmp_path, *flags.split(), *measured, bundle=tiny_bundle)
    rows = {(r["contender"], r["operation"], r["clock"]): r for r in result["rows"]}
    planned = {(c.name, *operation) for c in contenders(["fp32"]) if c.family in measured for operation in c.operations}
    assert set(rows) == planned
    gpu_only = ("cuda", "tensorrt", "best")
    for (name, *_), row in rows.items():
        if name.startswith(gpu_only):
            assert "CPU" in row["reason"] or "is not installed" in row["reason"] or "none here" in row["reason"], row
        else:
            assert 0 < row["best_ms"] <= row["median_ms"], row
            assert row["repeats"] >= 662 or row["p99_ms"] is None, row
            assert row["images_per_second"] > 0
            assert row["floor_ms"] > 0
            parity = row["parity"]
            assert parity.get("step_agreement", 1.0) > 0.99, row
            assert parity.get("psnr", 60) is None or parity.get("psnr", 60) > 55, row
    assert result["machine"]["ceilings"]["fp32_flops"] > 0
    assert "| torch-eager | fp32 |" in (tmp_path / "out" / "gpu.md").read_text()


@pytest.mark.gpu
def test_flow_on_a_gpu(tmp_path: Path) -> None:
    result = run(tmp_path, "--batches", "2", "--families", "torch", "cuda")
    measured = {row["contender"] for row in result["rows"] if "median_ms" in row}
    assert measured >= {"torch-eager", "cuda-sm80"}


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_fails_leaves_a_reason() -> None:
    assert in_child(partial(int, "1"), 30) is None
    assert in_child(partial(Rows, Path("x")), 30) is None
    assert in_child(partial(os._exit, 3), 30) == "the process died of exit code 3"
    assert in_child(_killed, 30) == "the process died of SIGKILL"
    assert in_child(partial(time.sleep, 60), 0) == "stopped after 0 s"


def test_an_error_leaves_its_first_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert in_child(partial(int, "no number"), 30) == (
        "ValueError: invalid literal for int() with base 10: 'no number'"
    )
    assert "Traceback" in capfd.readouterr().err


def test_a_reason_never_replaces_a_measurement(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add(KEY, {"reason": "no time"})
    rows.add(KEY, {"median_ms": 2.0})
    rows.add(KEY, {"reason": "no time again"})
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"shape": "ti')  # the end of a process that was killed
    assert rows.read()[KEY]["median_ms"] == 2.0
    assert len(rows.read()) == 1


def test_parts_of_a_wheel_are_joined_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir(), second.mkdir()
    (second / "big-1-py3-none-any.whl.ab").write_bytes(b"two")
    (first / "big-1-py3-none-any.whl.aa").write_bytes(b"one")
    (second / "big-1-py3-none-any.whl.ac").write_bytes(b"three")
    (first / "small-1-py3-none-any.whl").write_bytes(b"whole")
    (first / "notes.txt").write_bytes(b"")
    found = {path.name: path.read_bytes() for path in join([first, second], tmp_path / "out")}
    assert found == {"big-1-py3-none-any.whl": b"onetwothree", "small-1-py3-none-any.whl": b"whole"}


def test_inputs_take_turns() -> None:
    seen: list[int] = []
    timing = measure(seen.append, [0, 1, 2], "host", 0.005)
    assert timing.best_ms <= timing.median_ms
    assert (timing.p99_ms is None) == (timing.repeats < 662)
    assert {0, 1, 2} == set(seen)
    # The first run, the warm-up and the repeats are all of them.
    assert len(seen) == timing.warmups + timing.repeats


def test_tables_show_what_did_not_run() -> None:
    ran = {"median_ms": 1.5, "repeats": 40, "p99_ms": 2.0, "floor_share": 0.25, "parity": {"step_agreement": 0.5}}
    key = {"shape": "tiny", "precision": "fp32", "operation": "encoder", "clock": "device"}
    result = {
        "machine": {"device": "GPU", "date": "-", "libraries": {"torch": "2"},
                    "ceilings": {"bf16_flops": 8e14, "fp32_flops": 5e13, "bytes_per_second": 3e12}},
        "settings": {"batches": [1, 8]},
        "rows": [
            {**key, "contender": "torch-eager", "batch": 1, **ran},
            {**key, "contender": "torch-eager", "batch": 8, "reason": "out of memory"},
            {**key, "contender": "tensorrt", "batch": 1, "reason": "absent"},
            {**key, "contender": "cuda-sm80", "batch": 1, **ran, "repeats": 700},
        ],
    }  # fmt: skip
    text = markdown(result)
    assert "| torch-eager | fp32 | 1.50 (40) | not run | 50.00% | 25% | - |" in text
    assert "| cuda-sm80 | fp32 | 1.50 (700, p99 2.00) |" in text
    assert "| tensorrt | fp32 | not run | not run | - | - | - |" in text
    assert "- tiny torch-eager fp32 encoder/device at 8: out of memory" in text
    assert "absent" in table(result)
