"""The measuring, by workers that take the times they are told; on the real ones in tests/runtime/cli/test_tune.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.bench.image_set import take_images
from coda_runtime.bench.run import Hooks
from coda_runtime.errors import BackendError
from coda_runtime.format.bundle import Bundle
from coda_runtime.tune.aims import Aim
from coda_runtime.tune.run import Outcome, record_of, tune
from coda_runtime.tune.settings import Wanted
from coda_runtime.tune.words import advice, to_json
from coda_runtime.tuned import Setting
from tests.runtime.bench.fakes import worker

CPU = LoadOptions("cpu")
pytestmark = pytest.mark.usefixtures("second")

# `times` is seconds by (backend, threads, operation); a file counts the processes of each setting.
CODE = """
import pathlib
who = f"{case['backend']} {case['threads']}"
notes = pathlib.Path(NOTES) / "processes.txt"
before = notes.read_text().splitlines().count(who) if notes.exists() else 0
notes.open("a").write(who + "\\n")
assert case["options"]["ignore_tuning"] and not case["detailed"]
TIMES = json.loads(GIVEN)
if who in json.loads(BROKEN):
    say("problem", problem="it broke"); sys.exit()
names = ("part", "file", "backend", "device", "precision", "format")
parts = [dict(zip(names, (p, p, case["backend"], "cpu", "fp32", "onnx"))) for p in ("encoder", "quantizer", "decoder")]
say("loaded", artifacts=parts, load=dict(import_s=0.1, load_s=0.1, first_run_s=0.1, host_bytes=1, device_bytes=None))
for operation, scenario, batch in case["measurements"]:
    seconds = TIMES[f"{who} {operation}"] * (1 + (batch - 1) * 0.5)
    slow, others = json.loads(SLOW).get(f"{who} {before}", [1.0, 0.0])
    say("measured", operation=operation, scenario=scenario, batch=batch, samples=[seconds * slow] * 10,
        images_per_sample=batch, warmup_runs=6, warm=True, peak_host_bytes=5, peak_device_bytes=None, parts_s=None,
        server=None, reference_s=[(1 if case["threads"] is None else 1.7) * slow] * 2, others=others)
say("done", throttled=None)
"""
FAST = {
    "onnxruntime None encode": 0.010, "onnxruntime None decode": 0.020,
    "onnxruntime 1 encode": 0.018, "onnxruntime 1 decode": 0.022,
    "second None encode": 0.008, "second None decode": 0.040,
    "second 1 encode": 0.012, "second 1 decode": 0.019,
}  # fmt: skip


class Quiet:
    def share(self) -> float:
        return 0.0


def measured(
    bundle: Path,
    folder: Path,
    aim: Aim | None = None,
    *,
    slow: Mapping[str, tuple[float, float]] | None = None,
    broken: tuple[str, ...] = (),
    times: Mapping[str, float] = FAST,
    **settings: Any,
) -> Outcome:
    given = {"NOTES": str(folder), "GIVEN": json.dumps(times), "SLOW": json.dumps(slow or {})}
    given["BROKEN"] = json.dumps(broken)
    code = "".join(f"{name} = {value!r}\n" for name, value in given.items()) + CODE
    hooks = Hooks(watch=Quiet, sleep=lambda _: None, command=worker(code))
    opened, wanted = Bundle.open(bundle), Wanted(threads=(None, 1))
    return tune(opened, take_images(opened), CPU, wanted, aim or Aim(), rounds=2, hooks=hooks, **settings)


def processes(folder: Path) -> dict[str, int]:
    lines = (folder / "processes.txt").read_text().splitlines()
    return {who: lines.count(who) for who in dict.fromkeys(lines)}


def best(outcome: Outcome) -> dict[str, tuple[str, int | None, int]]:
    return {
        operation: (outcome.settings[row.setting].backend, outcome.settings[row.setting].threads, row.batch)
        for (_, operation), row in outcome.best.items()
    }


def test_each_operation_has_its_own_best(bundle: Path, tmp_path: Path) -> None:
    outcome = measured(bundle, tmp_path)
    assert best(outcome) == {"encode": ("second", None, 1), "decode": ("second", 1, 1)}
    # Again: what runs unasked, and of each operation the best two that are near; one of each comes to the other's.
    assert processes(tmp_path) == {"onnxruntime None": 2, "onnxruntime 1": 1, "second None": 2, "second 1": 2}
    parts = outcome.tuned["fp32"].parts
    assert parts == {"encoder": Setting("second", None), "quantizer": Setting("second", None)} | {
        "decoder": Setting("second", 1)
    }
    figures = outcome.tuned["fp32"].measured["encode"]
    assert (figures.batch, figures.latency_s, figures.processes, figures.disturbed) == (1, 0.008, 2, False)
    assert figures.images_per_s == pytest.approx(125)
    assert outcome.warnings == []
    told = list(advice(outcome, Bundle.open(bundle)))
    assert told == [
        "encode in fp32: second, its own threads, 1.25 × as fast",
        "decode in fp32: second, 1 thread, 1.05 × as fast",
    ]


def test_the_record_is_of_the_machine_and_the_bundle(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    outcome = measured(bundle, tmp_path)
    record = record_of(outcome, opened, CPU, Aim())
    assert record.outdated(opened, "cpu") == []
    assert (record.precisions, record.aim) == (outcome.tuned, "the lowest latency")
    data = to_json(outcome, opened, CPU, Aim())
    assert data["best"]["fp32"]["parts"]["decoder"] == {"backend": "second", "threads": 1}
    assert sum(of["best"] for of in data["rows"]) == 2
    json.dumps(data, allow_nan=False)


def test_images_per_second_and_a_bound(bundle: Path, tmp_path: Path) -> None:
    """A batch of 8 takes 4.5 times as long."""
    folders = [tmp_path / name for name in ("rate", "bound", "none")]
    for folder in folders:
        folder.mkdir()
    assert best(measured(bundle, folders[0], Aim(throughput=True))) == {
        "encode": ("second", None, 8),
        "decode": ("second", 1, 8),
    }
    assert best(measured(bundle, folders[1], Aim(bound_s=0.05))) == {
        "encode": ("second", None, 8),
        "decode": ("second", 1, 1),
    }
    outcome = measured(bundle, folders[2], Aim(bound_s=0.012))
    assert best(outcome) == {"encode": ("second", None, 1)}
    assert outcome.tuned == {}, "a record is of all parts"
    told = outcome.lacking("fp32", Aim(bound_s=0.012))
    assert told == "no setting of decode in fp32 takes under 12 ms, the fastest takes 19 ms"


def test_only_processes_that_nothing_disturbed_count(bundle: Path, tmp_path: Path) -> None:
    """Others had the processors, or the machine was slow: without the second look 1 thread would have won."""
    slow = {"second None 1": (3.0, 0.0), "onnxruntime None 0": (1.0, 0.5)}
    outcome = measured(bundle, tmp_path, slow=slow)
    assert best(outcome)["encode"] == ("second", None, 1)
    assert outcome.tuned["fp32"].measured["encode"].latency_s == 0.008
    assert processes(tmp_path)["second None"] > 2, "once more where too few were undisturbed"
    assert not any(row.disturbed for row in outcome.rows if row.final)


def test_where_all_are_disturbed_they_count_and_it_is_told(bundle: Path, tmp_path: Path) -> None:
    slow = {f"{who} {number}": (1.0, 0.9) for who in ("second None", "second 1") for number in range(9)}
    outcome = measured(bundle, tmp_path, slow=slow)
    assert outcome.best["fp32", "encode"].disturbed
    assert any("disturbed every process of some of the best" in warning for warning in outcome.warnings)
    assert processes(tmp_path)["second None"] == 4, "no more often than twice as many"
    assert outcome.tuned == {}, "nothing is recorded"


def test_where_other_work_never_ends(bundle: Path, tmp_path: Path) -> None:
    slow = {f"{who} {number}": (1.0, 0.9) for who in ("second None", "second 1") for number in range(9)}
    outcome = measured(bundle, tmp_path, slow=slow, busy=True)
    assert outcome.tuned["fp32"].measured["encode"].disturbed
    assert processes(tmp_path)["second None"] == 2


def test_a_setting_that_fails_is_skipped(bundle: Path, tmp_path: Path) -> None:
    outcome = measured(bundle, tmp_path, broken=("second None", "second 1"))
    assert best(outcome) == {"encode": ("onnxruntime", None, 1), "decode": ("onnxruntime", None, 1)}
    reasons = [(of.backend, of.reason) for of in outcome.skipped if of.backend == "second"]
    assert reasons == [("second", "it broke (threads left open)"), ("second", "it broke (threads 1)")]
    assert [text.rpartition(", ")[2] for text in advice(outcome, Bundle.open(bundle))] == ["as without a record"] * 2


def test_where_nothing_runs_the_reasons_are_told(bundle: Path, tmp_path: Path) -> None:
    everything = tuple(f"{backend} {threads}" for backend in ("onnxruntime", "second") for threads in (None, 1))
    with pytest.raises(BackendError, match=r"nothing of .* could be measured; .*fp32, second: it broke \(threads 1\)"):
        measured(bundle, tmp_path, broken=everything)
