from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.bench_cpu import TARGETS, Target, report, seconds, steady, table, verdict
from benchmarks.bench_runtime import run_in_chunks
from benchmarks.bench_runtime import verdict as overhead_verdict
from benchmarks.common import Ratio
from benchmarks.cpu_pipelines import CODA, CODA_INT8, DEFAULT, PIPELINES

TARGET = Target("shape", "encode", "ours", 2.0, ("theirs", "absent"))


@pytest.mark.parametrize(("taken", "met", "word"), [(2.0, True, ": met"), (1.9, False, ": NOT MET")])
def test_target(taken: float, met: bool, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = verdict(TARGET, {"ours": dict.fromkeys(range(6), 1.0), "theirs": dict.fromkeys(range(2, 9), taken)})
    assert [ratio["rounds"] for ratio in found["against"].values()] == [4], "only rounds that both have"
    assert [ratio["met"] for ratio in found["against"].values()] == [met]
    report(TARGET, found)
    out = capsys.readouterr().out
    assert word in out
    assert f"{taken:.2f} x" in out
    assert "absent" not in out


def test_target_that_was_not_measured_is_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    report(TARGET, verdict(TARGET, {"theirs": {0: 1.0}}))
    assert "not measured" in capsys.readouterr().out


def test_targets_name_pipelines() -> None:
    assert {target.pipeline for target in TARGETS} | {b for t in TARGETS for b in t.baselines} <= set(DEFAULT)
    assert set(DEFAULT) < set(PIPELINES)


def process(pipeline: str, number: int, product: float, others: float = 0.0, encode: float = 1.0) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "round": number,
        "encode_s": [9 * encode, encode, encode],
        "decode_s": [2.0],
        "reference_s": [product, product * 1.02],
        "others": others,
    }


def test_processes_count_at_the_speed_at_which_every_pipeline_ran() -> None:
    fast = [process("a", n, 1.0) for n in range(6)]
    slow = [process(name, n, 1.5) for n in range(6, 9) for name in ("a", "b")]
    disturbed = [process("b", 3, 1.0, others=0.5)]
    assert steady([*fast, *slow, *disturbed]) == slow
    both = [*fast, *(process("b", n, 1.0) for n in range(3))]
    assert steady([*slow, *both]) == both, "of speeds at which all ran as often, the highest"
    own = process("a", 0, 1.0) | {"reference_s": [1.5, 1.0]}
    assert steady([own, *both]) == [own, *both], "its own threads were still busy during the first product"
    assert steady([own | {"reference_s": [1.5, 1.5]}, *both]) == both


def test_the_median_of_a_process_and_the_table() -> None:
    runs = [process(name, n, 1.0, encode=speed) for name, speed in ((CODA, 0.2), (CODA_INT8, 0.1)) for n in range(2)]
    assert seconds(runs, "encode") == {CODA: {0: 0.2, 1: 0.2}, CODA_INT8: {0: 0.1, 1: 0.1}}
    entry = {"runs": runs, "left_out": {"x": "no"}, "loss": {CODA: {"psnr": None}, CODA_INT8: {"psnr": 40.04}}}
    lines = table({"shapes": {"mar_v16384": entry}})
    assert f"| {CODA} | 200 | 2000 | 2 | identical |" in lines
    assert f"| {CODA_INT8} | 100 | 2000 | 2 | 40.0 |" in lines
    assert lines[-1] == "Left out: mar_v16384, x: no."


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
    assert sizes == [3, 3, 1]
