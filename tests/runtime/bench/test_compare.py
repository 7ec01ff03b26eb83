from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coda_runtime import InputError
from coda_runtime.bench.compare import MEMORY_SLACK, Row, compare
from coda_runtime.bench.results import Results
from tests.runtime.bench.examples import document, results


def changed(change: Callable[[dict[str, Any]], object]) -> Results:
    data: dict[str, Any] = copy.deepcopy(document())  # type: ignore[assignment]
    change(data)
    return Results.check(data)


def measurement(data: dict[str, Any], index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = data["cells"][0]["measurements"][index]
    return found


def row_of(rows: tuple[Row, ...], scenario: str, batch: int = 1) -> Row:
    found = [row for row in rows if (row.operation, row.scenario, row.batch) == ("encode", scenario, batch)]
    return found[0]


def test_a_file_is_the_same_as_itself() -> None:
    found = compare(results(), results())
    assert len(found.rows) == 48
    assert {row.verdict for row in found.rows} == {"same within noise"}
    assert {metric.verdict for row in found.rows for metric in row.metrics} <= {"same within noise", "same"}
    assert found.regressions == []
    assert found.differences == ()


def test_another_run_of_the_same_is_no_regression() -> None:
    found = compare(results(), results(seed=7))
    assert found.regressions == []
    assert sum(row.verdict == "same within noise" for row in found.rows) >= 40


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "slower"), (0.8, "faster")])
def test_slower_and_faster(factor: float, verdict: str) -> None:
    found = compare(results(), results(seed=7, factor=factor))
    timed = [row for row in found.rows if row.scenario != "server"]
    assert {row.verdict for row in timed} == {verdict}
    assert found.regressions == (timed if verdict == "slower" else [])
    row = row_of(found.rows, "single-stream")
    assert [metric.name for metric in row.metrics] == ["latency", "throughput", "peak_host_bytes"]
    latency, throughput = row.metrics[:2]
    assert latency.ci95 is not None
    assert latency.ci95[0] < latency.ratio < latency.ci95[1]
    assert latency.ratio == pytest.approx(factor, rel=0.03)
    assert throughput.ratio == pytest.approx(1 / factor, rel=0.03)
    assert throughput.verdict == verdict
    assert row_of(found.rows, "offline", 32).metrics[0].name == "throughput"


def test_slower_within_the_threshold_is_no_regression() -> None:
    before, after = results(), results(seed=7, factor=1.2)
    assert not [row for row in compare(before, after, 0.3).rows if row.regression]
    assert compare(before, after, 0.3).rows[0].verdict == "slower"


def test_the_whole_interval_must_be_past_the_threshold() -> None:
    before, after = results(), results(seed=7, factor=1.2)
    row = row_of(compare(before, after).rows, "single-stream")
    low, high = row.metrics[0].ci95 or (0, 0)
    for threshold, regression in ((low - 1 - 1e-6, True), ((low + high) / 2 - 1, False)):
        again = row_of(compare(before, after, threshold).rows, "single-stream")
        assert again.metrics[0].regression == regression


def test_memory() -> None:
    more = compare(results(), changed(lambda d: measurement(d).update(peak_host_bytes=int(9e8))))
    assert [row.name for row in more.regressions] == ["encode, single-stream, batch 1 (onnxruntime fp32 cpu 2 threads)"]
    assert more.rows[0].verdict == "same within noise"
    assert more.rows[0].metrics[-1].verdict == "more"
    less = compare(changed(lambda d: measurement(d).update(peak_host_bytes=int(9e8))), results())
    assert less.rows[0].metrics[-1].verdict == "less"
    assert not less.regressions
    # A page more is nothing, whatever the threshold.
    slack = results().data["cells"][0]["measurements"][0]["peak_host_bytes"] or 0
    within = changed(lambda d: measurement(d).update(peak_host_bytes=slack + MEMORY_SLACK))
    assert not compare(results(), within, 0.0).rows[0].regression


def test_the_server_is_judged_by_its_rate_and_fails_nothing() -> None:
    found = row_of(
        compare(results(), changed(lambda d: measurement(d, 15)["server"].update(max_rate=3.0))).rows, "server", 8
    )
    assert found.verdict == "slower"
    assert found.metrics[0].name == "max_rate"
    assert found.metrics[0].ci95 is None
    assert not found.regression
    none = row_of(
        compare(results(), changed(lambda d: measurement(d, 15)["server"].update(max_rate=None))).rows, "server", 8
    )
    assert (none.verdict, none.metrics[0].ratio) == ("slower", 0)


def test_servers_under_other_bounds_are_not_compared() -> None:
    other = changed(lambda d: measurement(d, 15)["server"].update(latency_bound_s=9.0, offered_rate=5.0))
    found = row_of(compare(results(), other).rows, "server", 8)
    assert found.verdict == "not comparable"
    assert "other latency bounds" in (found.reason or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["bundle"].update(fingerprints=["codebook:" + "e" * 64]), "different tokenizers"),
        (lambda d: d["bundle"]["spec"].update(image_size=512), "spec.image_size is 256 in A and 512 in B"),
        (lambda d: d["images"].update(sha256="e" * 64), "the images differ"),
        (lambda d: d["images"].update(count=31), "32 of photos in A, 31 of photos in B"),
    ],
)
def test_other_work_is_not_compared(change: Callable[[dict[str, Any]], object], words: str) -> None:
    found = compare(results(), changed(change))
    assert {row.verdict for row in found.rows} == {"not comparable"}
    assert all(words in (row.reason or "") and not row.metrics for row in found.rows)
    assert any(words in text for text in found.differences)
    assert found.other_work


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["bundle"].update(manifest_sha256="e" * 64), "different exports"),
        (lambda d: d["machine"]["cpu"].update(model="Other"), "the processor is Example Processor 9000 in A and Other"),
        (lambda d: d["machine"]["cpu"].update(governor="powersave"), "governor is not there in A and powersave in B"),
        (lambda d: d["machine"]["libraries"].update(numpy="2.5"), "numpy is 2.4.6 in A and 2.5 in B"),
        (lambda d: d["machine"].update(gpus=[]), "GPU 0 is Example GPU, driver 580.10 in A and not there in B"),
        (lambda d: d.update(coda_runtime="0.2.0"), "coda_runtime is 0.1.0 in A and 0.2.0 in B"),
        (lambda d: d["cells"][0]["artifacts"][0].update(precision="bf16"), "encoder onnx bf16 by onnxruntime on cpu"),
    ],
)
def test_other_circumstances_are_said_and_compared(change: Callable[[dict[str, Any]], object], words: str) -> None:
    found = compare(results(), changed(change))
    assert any(words in text for text in found.differences)
    assert found.other_work == ()
    assert {row.verdict for row in found.rows} == {"same within noise"}


def test_the_clock_of_the_moment_is_no_difference() -> None:
    assert compare(results(), changed(lambda d: d["machine"]["cpu"].update(frequency_mhz=1200.0))).differences == ()


def test_measurements_of_one_file_alone() -> None:
    fewer = changed(lambda d: (d["cells"][0].update(measurements=[], problem="no memory"), d["cells"].pop(1)))
    found = compare(results(), fewer)
    assert [row.verdict for row in found.rows].count("only in A") == 32
    assert found.rows[0].reason == "no memory"
    assert "B: onnxruntime fp32 cpu 2 threads did not run: no memory" in found.warnings
    # What ran before and fails now is worse than slow; what was not asked for again is no loss.
    assert found.regressions
    assert {row.reason for row in found.regressions} == {"no memory"}
    assert len(found.regressions) < 32
    assert [row.verdict for row in compare(fewer, results()).rows].count("only in B") == 32
    assert compare(fewer, results()).regressions == []


def test_warnings_stand_beside_the_verdict() -> None:
    found = compare(results(), results(busy=True))
    assert "B: the machine was busy: other processes used 37 % of the CPU" in found.warnings
    assert found.rows[2].warnings == ("B never became stable in its warm-up",)
    assert found.rows[0].warnings == ()


@pytest.mark.parametrize("samples", [[0.03] * 5, [0.0, *[0.03] * 9]])
def test_too_little_to_compare(samples: list[float]) -> None:
    def cut(data: dict[str, Any]) -> None:
        low = min(samples)
        measurement(data)["latency_s"].update(samples=samples, min=low)
        measurement(data)["throughput_ci95"] = None

    found = compare(results(), changed(cut)).rows[0]
    assert found.verdict == "not comparable"
    assert "expected at least 6, all positive" in (found.reason or "")
    assert not found.regression


@pytest.mark.parametrize("threshold", [-0.01, 1, 5, float("nan")])
def test_the_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(InputError, match=r"0\.05 for 5 %"):
        compare(results(), results(), threshold)


def test_json_holds_all_of_it() -> None:
    found = compare(results(), results(seed=7, factor=1.2))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(data["rows"]) == 48
    assert data["regressions"] == [row.name for row in found.regressions]
    assert data["rows"][0]["metrics"][0]["ci95"] == list(found.rows[0].metrics[0].ci95 or ())
    assert data["rows"][0]["regression"] is True
    assert np.isclose(data["threshold"], 0.05)
