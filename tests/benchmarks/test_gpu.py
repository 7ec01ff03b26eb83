"""The GPU measurement's flow, on the CPU with a tiny tokenizer; what it measures there means nothing.

Each call imports PyTorch in several processes, so what is of the flow's edges is slow.
"""

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
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.measure import KEY as KEY_NAMES
from benchmarks.gpu.measure import Rows
from benchmarks.gpu.plan import LARGEST_AT_FIRST, contenders, families, turns
from benchmarks.gpu.report import markdown, table
from benchmarks.gpu.stage import OVER, in_child
from benchmarks.gpu.timing import measure
from benchmarks.gpu.wheels import join
from coda_runtime.bench.image_set import take_images
from coda_runtime.bench.reading import read_gpu_json, read_results
from coda_runtime.format.bundle import Bundle

ROOT = Path(__file__).parents[2]
FAMILIES = families(["fp32"])
KEY = ("tiny", "torch-eager", "fp32", "encoder", "device", 1)


ON_CPU = ("--device", "cpu", "--precisions", "fp32")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder: Path, *arguments: str, bundle: Path | None = None) -> list[str]:
    """One call; with ``bundle``, exporting is left out, and the kernels are a stub, which no CPU loads."""
    out = [sys.executable, "-m", "benchmarks.gpu", "run", "--shapes", "tiny", "--seconds", "0.01"]
    if bundle is not None:
        shutil.copytree(bundle, folder / "work" / "tiny" / "bundle")
        (folder / "kernels").mkdir()
        for target in ("sm80", "sm90"):
            (folder / "kernels" / f"tiny.{target}.ptx").write_text("//")
            (folder / "kernels" / f"tiny.{target}.json").write_text(json.dumps({"targets": [target]}))
        out += ["--kernels", str(folder / "kernels")]
    return [*out, "--work", str(folder / "work"), "--out", str(folder / "out"), *arguments]


def call(typed: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(typed, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def run(folder: Path, *arguments: str, bundle: Path | None = None) -> dict[str, Any]:
    """What a call that succeeds leaves in gpu.json."""
    done = call(command(folder, *arguments, bundle=bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return read_gpu_json(folder / "out" / "gpu.json")


def test_flow(tiny_bundle: Path, tmp_path: Path) -> None:
    # Without torch.compile, whose tracing takes as long as all of the rest.
    measured = [name for name in FAMILIES if name != "compile"]
    result = run(tmp_path, *ON_CPU, "--batches", "3", "--families", *measured, bundle=tiny_bundle)
    rows = {(r["contender"], r["operation"], r["clock"]): r for r in result["rows"]}
    planned = {(c.name, *operation) for c in contenders(["fp32"]) if c.family in measured for operation in c.operations}
    assert set(rows) == planned
    gpu_only = ("cuda", "tensorrt", "best", "torch-tensorrt", "onnxruntime-tensorrt")
    for (name, *_), row in rows.items():
        if name.startswith(gpu_only):
            assert "CPU" in row["reason"] or "is not installed" in row["reason"] or "none here" in row["reason"], row
        else:
            assert 0 < row["best_ms"] <= row["median_ms"] <= row["max_ms"], row
            assert row["repeats"] >= 662 or row["p99_ms"] is None, row
            assert row["images_per_second"] > 0
            assert row["floor_ms"] > 0
            parity = row["parity"]
            assert parity.get("step_agreement", 1.0) > 0.99, row
            assert parity.get("psnr", 60) is None or parity.get("psnr", 60) > 55, row
    assert result["machine"]["ceilings"]["fp32_flops"] > 0
    assert result["doctor"]["onnxruntime"]["version"]
    assert "executable" not in result["doctor"], "a path may hold somebody's name"
    assert "| torch-eager | fp32 |" in (tmp_path / "out" / "gpu.md").read_text()
    # The other tool reads it, and knows the tokenizer and the images again.
    (results,) = read_results(tmp_path / "out" / "gpu.json")
    opened = Bundle.open(tiny_bundle)
    assert results.data["bundle"]["fingerprints"] == list(opened.fingerprints)
    assert results.data["images"] == take_images(opened).facts()
    assert {cell["backend"] for cell in results.data["cells"]} == {"torch-eager", "onnxruntime"}


@pytest.mark.skipif(sys.platform != "linux", reason="children that end with their parent")
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_call_that_was_cut_goes_on(tiny_bundle: Path, tmp_path: Path, how: signal.Signals) -> None:
    typed = command(tmp_path, *ON_CPU, "--batches", "1", "2", "--families", "torch", "onnxruntime", bundle=tiny_bundle)
    begun = subprocess.Popen(
        typed, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    rows, deadline = Rows(tmp_path / "work" / "rows.jsonl"), time.monotonic() + 600
    while len(rows.read()) < 11 and time.monotonic() < deadline:  # of the second family, so the first is written
        time.sleep(0.01)
    children = Path(f"/proc/{begun.pid}/task/{begun.pid}/children").read_text().split()
    begun.send_signal(how)
    _, said = begun.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children), "it would go on beside the next call"
    cut = rows.read()
    assert 10 < len(cut) < 24
    assert len(read_gpu_json(tmp_path / "out" / "gpu.json")["rows"]) == (10 if how == signal.SIGKILL else len(cut))
    if how == signal.SIGTERM:
        assert begun.returncode == 1
        assert f"stopped: {len(cut)} of 24 measured" in said
        assert "are left: the same call goes on" in said
    done = call(typed)
    assert done.returncode == 0, done.stderr
    assert "tiny, torch, " not in done.stdout, "it has all its rows"
    assert done.stdout.splitlines()[-1].startswith("24 of 24 measured, 0 cannot be")
    whole = {
        tuple(row[name] for name in KEY_NAMES): row for row in read_gpu_json(tmp_path / "out" / "gpu.json")["rows"]
    }
    assert len(whole) == 24
    assert {key: whole[key]["median_ms"] for key in cut} == {key: row["median_ms"] for key, row in cut.items()}


@pytest.mark.slow
def test_a_budget_that_is_spent_leaves_the_rest(tiny_bundle: Path, tmp_path: Path) -> None:
    typed = command(tmp_path, *ON_CPU, "--batches", "1", "--families", "torch", "onnxruntime", bundle=tiny_bundle)
    begun = time.monotonic()
    done = call([*typed, "--budget", "0.001"])
    assert time.monotonic() - begun < 60
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("12 are left: the same call goes on")
    assert {row["reason"] for row in read_gpu_json(tmp_path / "out" / "gpu.json")["rows"]} == {OVER}
    assert call(typed).stdout.splitlines()[-1].startswith("12 of 12 measured")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shapes", "none"), "there is no shape none; expected some of "),
        pytest.param(
            ("--families", "none"),
            "there is no family none; expected some of torch, onnxruntime, ",
            marks=pytest.mark.slow,
        ),
        pytest.param(("--precisions", "fp99"), "there is no precision fp99; expected some of ", marks=pytest.mark.slow),
        pytest.param(
            ("--batches", "0"), "--batches, --seconds and --budget are numbers over 0", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = call(command(tmp_path, *arguments))
    assert done.returncode == 1
    assert done.stderr.startswith(words), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_file_is_of_one_machine(tiny_bundle: Path, tmp_path: Path) -> None:
    typed = command(tmp_path, *ON_CPU, "--batches", "1", "--families", "quantizers", bundle=tiny_bundle)
    assert call(typed).returncode == 0
    told = tmp_path / "work" / "machine.json"
    told.write_text(told.read_text().replace("cpu: the flow alone", "NVIDIA H100, not"))
    done = call(typed)
    assert done.returncode == 1
    assert "holds measurements of another machine" in done.stderr
    assert "device was NVIDIA H100, not, no measurement and is cpu" in done.stderr


SHAPES = st.lists(st.sampled_from(["mar_v16384", "sample", "flux_v65536"]), min_size=1, unique=True)
BATCHES = st.lists(st.integers(1, 300), min_size=1, max_size=6, unique=True)


@given(SHAPES, BATCHES)
def test_turns_are_all_there_once_and_large_batches_come_last(shapes: list[str], batches: list[int]) -> None:
    found = turns(shapes, FAMILIES, batches)
    each = [(turn.shape, turn.family, batch) for turn in found for batch in turn.batches]
    assert sorted(each) == sorted((s, f, b) for s in shapes for f in FAMILIES for b in batches)
    largest = [max(turn.batches) > LARGEST_AT_FIRST for turn in found]
    assert largest == sorted(largest)
    usual = [turn.shape for turn in found if max(turn.batches) <= LARGEST_AT_FIRST]
    assert usual == sorted(usual, key=shapes.index), "one shape whole, then the next"


@pytest.mark.gpu
def test_flow_on_a_gpu(tmp_path: Path) -> None:
    result = run(tmp_path, "--batches", "2", "--families", "torch", "cuda")
    measured = {row["contender"] for row in result["rows"] if "median_ms" in row}
    assert measured >= {"torch-eager", "cuda-sm80"}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "library"), [("torch-tensorrt", "torch_tensorrt"), ("tensorrt-provider", "tensorrt")]
)
def test_peers_on_a_gpu_tell_what_ran_where(family: str, library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    result = run(tmp_path, "--batches", "2", "--families", family)
    measured = [row for row in result["rows"] if "median_ms" in row]
    assert measured, result["rows"]
    assert all(sum(row["nodes"].values()) > 0 for row in measured)


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
    rows.add((*KEY[:5], 8), {"median_ms": 3.0})
    assert [row["median_ms"] for row in rows.read().values()] == [2.0, 3.0]


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
            {**key, "contender": "onnxruntime-tensorrt", "batch": 1, **ran,
             "nodes": {"TensorrtExecutionProvider": 90, "CUDAExecutionProvider": 3}},
        ],
    }  # fmt: skip
    text = markdown(result)
    assert "| torch-eager | fp32 | 1.50 (40) | not run | 50.00% | 25% | - |" in text
    assert "| cuda-sm80 | fp32 | 1.50 (700, p99 2.00) |" in text
    assert "| tensorrt | fp32 | not run | not run | - | - | - |" in text
    assert "- tiny torch-eager fp32 encoder/device at 8: out of memory" in text
    assert "absent" in table(result)
    shared = "tiny onnxruntime-tensorrt fp32 encoder/device: 90 TensorrtExecutionProvider, 3 CUDAExecutionProvider"
    assert f"- {shared}" in text
    assert f"  {shared}" in table(result)
