from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.bench_cpu import TARGETS, Target, in_batches, report, verdict
from benchmarks.bench_runtime import run_in_chunks
from benchmarks.bench_runtime import verdict as overhead_verdict
from benchmarks.common import Ratio
from benchmarks.cpu_pipelines import PIPELINES, limited

TARGET = Target("shape", "encode", "ours", 2.0, ("theirs", "absent"))


@pytest.mark.parametrize(("seconds", "met", "word"), [(2.0, True, ": met"), (1.9, False, ": NOT MET")])
def test_target(seconds: float, met: bool, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = verdict(TARGET, {"ours": [1.0] * 6, "theirs": [seconds] * 6})
    assert [ratio["met"] for ratio in found["against"].values()] == [met]
    report(TARGET, found)
    out = capsys.readouterr().out
    assert word in out
    assert f"{seconds:.2f} x" in out
    assert "absent" not in out


def test_target_that_was_not_measured_is_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    report(TARGET, verdict(TARGET, {"theirs": [1.0]}))
    assert "not measured" in capsys.readouterr().out


def test_targets_name_pipelines() -> None:
    assert {target.pipeline for target in TARGETS} | {b for t in TARGETS for b in t.baselines} <= set(PIPELINES)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(Ratio(1.0, 0.99, 1.02), "met"), (Ratio(1.05, 1.04, 1.06), "NOT MET"), (Ratio(1.02, 1.0, 1.05), "open")],
)
def test_overhead(ratio: Ratio, word: str) -> None:
    assert overhead_verdict(ratio, 0.03).startswith(word)


def test_chunks() -> None:
    sizes: list[int] = []

    def run(part: NDArray[np.int64]) -> NDArray[np.int64]:
        sizes.append(len(part))
        return part + 1

    given = np.arange(7)
    assert (run_in_chunks(run, given, 3) == given + 1).all()
    assert (in_batches(run, given[:6], 2) == given[:6] + 1).all()
    assert sizes == [3, 3, 1, 2, 2, 2]


def test_a_pipeline_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(TimeoutError, match="compiling took longer than 1 s"), limited(1, "compiling"):
        time.sleep(5)
    with limited(1, "compiling"):
        pass
    time.sleep(1.1)
