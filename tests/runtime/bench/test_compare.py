from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coda_runtime import InputError
from coda_runtime.bench.ab import run_ab
from coda_runtime.bench.compare import Row, compare, compare_cells
from coda_runtime.bench.results import Results
from coda_runtime.bench.row_metrics import MEMORY_SLACK
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
    assert found.outcome() == "ok"
    assert found.differences == ()


def test_another_run_of_the_same_is_no_difference() -> None:
    verdicts = [row.verdict for seed in range(7, 17) for row in compare(results(), results(seed=seed)).rows]
    assert verdicts.count("same within noise") >= 0.85 * len(verdicts)
    assert not {"slower", "faster"} & set(verdicts)


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "slower"), (0.8, "faster")])
def test_slower_and_faster(factor: float, verdict: str) -> None:
    found = compare(results(), results(seed=7, factor=factor))
    timed = [row for row in found.rows if row.scenario != "server"]
    assert {row.verdict for row in timed} == {verdict}
    assert found.regressions == (timed if verdict == "slower" else [])
    row = row_of(found.rows, "single-stream")
    names = [metric.name for metric in row.metrics]
    assert names == ["median", "throughput", "encoder", "quantizer", "runtime", "peak_host_bytes"], "63 calls: no p90"
    median, throughput = row.metrics[:2]
    assert median.ci99 is not None
    assert median.ci99[0] < median.ratio < median.ci99[1]
    assert median.ratio == pytest.approx(factor, rel=0.03)
    assert throughput.ratio == pytest.approx(1 / factor, rel=0.03)
    assert throughput.verdict == verdict
    assert row_of(found.rows, "offline", 32).metrics[0].name == "throughput"


def test_copies_to_and_from_a_gpu_are_compared_too() -> None:
    found = compare(results(), results(seed=7, factor=1.2))
    (row,) = [
        row for row in found.rows if row.device == "cuda:0" and row.name.startswith("encode, single-stream, batch 1 ")
    ]
    copies = {metric.name: metric for metric in row.metrics if "_to_" in metric.name}
    assert list(copies) == ["host_to_device", "device_to_host"]
    for metric in copies.values():
        assert metric.ratio == pytest.approx(1.2, rel=0.03)
        assert metric.regression


def test_percentiles_are_compared_where_both_know_them() -> None:
    def known(data: dict[str, Any]) -> None:
        latency = measurement(data)["latency_s"]
        latency.update(p90=latency["p50"], p99=latency["max"], count=700)

    both = compare(changed(known), changed(known)).rows[0]
    assert [metric.name for metric in both.metrics][2:4] == ["p90", "p99"]
    assert "p90" not in {metric.name for metric in compare(results(), changed(known)).rows[0].metrics}


def test_high_percentiles_of_few_and_of_many_calls_are_not_alike() -> None:
    """A long tail, of which ten times as many calls see more: the same, measured for 0.5 s and for 5 s."""

    def calls(count: int, p99: float) -> Results:
        def put(data: dict[str, Any]) -> None:
            of = measurement(data)
            of["latency_s"].update(p90=of["latency_s"]["p50"], p99=of["latency_s"]["max"], count=7 * count)
            for index, process in enumerate(of["processes"]):
                process.update(count=count, p99=p99 * (1 + 0.002 * index))

        return changed(put)

    def judged(a: Results, b: Results) -> tuple[str, bool, str | None]:
        (metric,) = (metric for metric in compare(a, b).rows[0].metrics if metric.name == "p99")
        return metric.verdict, metric.regression, metric.reason

    reason = "100 calls in a process of one and 1000 in the other: take the same --seconds"
    assert judged(calls(100, 0.035), calls(1000, 0.04)) == ("inconclusive", False, reason)
    assert judged(calls(100, 0.035), calls(90, 0.04)) == ("slower", True, None)
    assert judged(calls(700, 0.035), calls(7000, 0.04)) == ("slower", True, None), "known in each process"


def test_slower_within_the_threshold_is_no_regression() -> None:
    before, after = results(), results(seed=7, factor=1.2)
    found = compare(before, after, 0.3)
    assert not [row for row in found.rows if row.regression]
    assert found.rows[0].verdict == "slower"
    assert found.outcome(allow_inconclusive=True) == "ok"


def test_the_whole_interval_must_be_past_the_threshold() -> None:
    before, after = results(), results(seed=7, factor=1.2)
    row = row_of(compare(before, after).rows, "single-stream")
    low, high = row.metrics[0].ci99 or (0, 0)
    for threshold, regression in ((low - 1 - 1e-6, True), ((low + high) / 2 - 1, False)):
        again = row_of(compare(before, after, threshold).rows, "single-stream")
        assert again.metrics[0].regression == regression


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["noise"].update(load_during=0.2),
        lambda d: d["noise"].update(load_before=0.2, load_during=None),
        lambda d: d["noise"].update(throttled=True),
        lambda d: [of["processes"].pop() for cell in d["cells"] for of in cell["measurements"] for _ in range(3)],
    ],
)
def test_of_a_disturbed_or_short_run_nothing_is_concluded(change: Callable[[dict[str, Any]], object]) -> None:
    for found in (
        compare(changed(change), results(seed=7)),
        compare(results(seed=7), changed(change)),
    ):
        assert {row.verdict for row in found.rows} == {"inconclusive"}
        assert found.outcome() == "inconclusive"
        assert found.outcome(allow_inconclusive=True) == "ok"
        assert all(row.reason for row in found.rows)


def test_processes_that_differ_much_are_inconclusive() -> None:
    def spread(data: dict[str, Any]) -> None:
        for index, process in enumerate(measurement(data)["processes"]):
            process["p50"] *= 1 + 0.2 * (index - 2)

    row = compare(results(), changed(spread)).rows[0]
    assert row.verdict == "inconclusive"
    assert "more than the threshold" in (row.reason or "")
    assert row.metrics[0].ci99 is not None


def test_other_work_before_the_measurement_is_no_doubt() -> None:
    early = changed(lambda d: d["noise"].update(load_before=0.5))
    assert {row.verdict for row in compare(early, results()).rows} == {"same within noise"}


def at_speeds(*seconds: tuple[float, float], **others: Any) -> Results:
    """Processes each at a speed; at the slower ones all takes as much longer as the product does."""

    def set_all(data: dict[str, Any]) -> None:
        data.update(others)
        of = measurement(data)
        first = of["processes"][0]
        of["processes"] = [
            {**first, "p50": 3 * max(pair) * (1 + 0.001 * i), "reference_s": list(pair)}
            for i, pair in enumerate(seconds)
        ]

    return changed(set_all)


QUICK, SLOW, MIXED = (0.01, 0.0101), (0.013, 0.0131), (0.01, 0.013)


def test_processes_of_one_speed_are_compared() -> None:
    a, b = at_speeds(*[SLOW] * 3, *[QUICK] * 6), at_speeds(*[QUICK] * 7, MIXED)
    row = compare(a, b).rows[0]
    assert row.verdict == "same within noise"
    assert row.metrics[0].ratio == pytest.approx(1, rel=0.01)


def test_runs_of_two_speeds_are_not() -> None:
    a, b = at_speeds(*[QUICK] * 7), at_speeds(*[SLOW] * 7)
    row = compare(a, b).rows[0]
    assert row.verdict == "inconclusive"
    assert row.reason == ("the machine ran at another speed: a product of matrices took 10.1 ms in A and 13 ms in B")
    machine = copy.deepcopy(b.data["machine"])
    machine["cpu"]["model"] = "Another"
    assert compare(a, at_speeds(*[SLOW] * 7, machine=machine)).rows[0].verdict == "slower", "machines are compared"
    machine["cpu"]["model"] = a.data["machine"]["cpu"]["model"]
    machine["libraries"]["numpy"] = "2.5"
    row = compare(a, at_speeds(*[SLOW] * 7, machine=machine)).rows[0]
    assert (row.verdict, row.regression) == ("inconclusive", False), "another NumPy on a slower machine"
    row = compare(a, at_speeds(*[MIXED] * 7)).rows[0]
    assert (row.verdict, row.metrics[0].regression) == ("inconclusive", False)
    assert "disturbed every process" in (row.reason or "")


def test_a_clock_that_is_a_little_lower_is_no_regression() -> None:
    """By less than what the product of two processes may differ, and in all of them."""
    a, b = at_speeds(*[(0.01, 0.01)] * 11), at_speeds(*[(0.01065, 0.01065)] * 11)
    for found in (compare(a, b).rows[0], compare(b, a).rows[0]):
        assert found.metrics[0].ratio == pytest.approx(1.065 if found.metrics[0].ratio > 1 else 1 / 1.065, rel=0.01)
        assert (found.verdict, found.regression) == ("inconclusive", False)
        assert "a product of matrices differs by as much" in (found.reason or "")
    slowed = at_speeds(*[(0.01065, 0.01065)] * 11)
    for process in slowed.data["cells"][0]["measurements"][0]["processes"]:
        process["p50"] *= 1.2
    assert compare(a, slowed).rows[0].regression, "it became slower by more than the machine did"


def test_pairs_of_two_speeds_are_left_out() -> None:
    a = at_speeds(*[QUICK] * 6, *[SLOW] * 6)
    b = at_speeds(*[QUICK] * 4, SLOW, MIXED, *[SLOW] * 6)
    found = compare(a, b, paired=True).rows[0]
    assert found.verdict == "same within noise"
    none = compare(at_speeds(*[QUICK] * 9), at_speeds(*[MIXED] * 9), paired=True).rows[0]
    assert (none.verdict, none.reason) == (
        "inconclusive",
        "other work, or another speed of the machine, disturbed every process",
    )
    other_threads = compare(at_speeds(*[QUICK] * 9), at_speeds(*[SLOW] * 9), paired=True).rows[0]
    assert other_threads.verdict == "slower", "the product takes longer too, as it does on one thread"
    few = compare(at_speeds(*[QUICK] * 8), at_speeds(*[QUICK] * 7, SLOW), paired=True).rows[0]
    assert "7 pairs of processes" in (few.reason or "")


def test_what_ran_and_cannot_run_any_more_is_a_regression() -> None:
    def lose(data: dict[str, Any], *, why: bool) -> None:
        gone = data["cells"][0]["measurements"].pop(0)
        about = {name: gone[name] for name in ("operation", "scenario", "batch")}
        data["cells"][0]["skipped"] = [{**about, "problem": "no memory"}] if why else []

    found = compare(results(), changed(lambda data: lose(data, why=True)))
    (lost,) = found.regressions
    assert (lost.verdict, lost.reason) == ("only in A", "no memory")
    assert found.outcome(allow_missing=True) == "regression"
    found = compare(results(), changed(lambda data: lose(data, why=False)))
    assert (found.regressions, found.outcome()) == ([], "nothing to compare")


def test_pairs_see_less_than_runs() -> None:
    """Processes that drift by half, together: a slow-down of 4 % shows in pairs alone."""

    def drift(data: dict[str, Any], factor: float) -> None:
        of = measurement(data)
        of["processes"] = [{**of["processes"][0], "p50": factor * 0.03 * (1 + 0.07 * index)} for index in range(8)]

    a, b = (changed(lambda d, f=factor: drift(d, f)) for factor in (1.0, 1.04))  # type: ignore[misc]
    assert compare(a, b).rows[0].verdict == "inconclusive"
    assert compare(a, b, paired=True).rows[0].verdict == "slower"
    assert compare(a, b, paired=True).rows[1].verdict == "inconclusive", "of five pairs nothing is concluded"


def test_cells_of_one_run() -> None:
    def twice(data: dict[str, Any]) -> None:
        cell = copy.deepcopy(data["cells"][0])
        cell["precision"] = "bf16"
        for of in cell["measurements"]:
            for process in of["processes"]:
                process["p50"] *= 0.5
        data["cells"].append(cell)

    found = compare_cells(changed(twice), "precision")
    assert len(found.rows) == 16
    assert found.rows[0].name == "encode, single-stream, batch 1 (onnxruntime fp32 to bf16 cpu 2 threads)"
    assert {row.verdict for row in found.rows if row.scenario == "single-stream"} == {"faster"}
    with pytest.raises(InputError, match="differ in threads alone"):
        compare_cells(results(), "threads")
    with pytest.raises(InputError, match="expected backend, precision, device, threads"):
        compare_cells(results(), "batch")


def test_the_first_cell_that_ran_is_what_others_are_compared_with() -> None:
    def three(data: dict[str, Any]) -> None:
        ran = data["cells"][0]
        failed = {**ran, "precision": "fp16", "problem": "not for this processor", "measurements": []}
        data["cells"] = [failed, ran, {**ran, "precision": "bf16"}]

    found = compare_cells(changed(three), "precision")
    assert {row.precision for row in found.rows} == {"fp32 to bf16"}
    assert found.outcome() == "ok"
    assert any("fp16 cpu 2 threads did not run: not for this processor" in text for text in found.warnings)


def test_what_to_conclude() -> None:
    same, slow = results(), results(seed=7, factor=1.2)
    fewer = changed(lambda d: d["cells"].pop(1))
    other = changed(lambda d: d["images"].update(count=31))
    none = changed(lambda d: d.update(cells=[]))
    assert compare(same, same).outcome() == "ok"
    assert compare(same, slow).outcome(allow_missing=True, allow_inconclusive=True) == "regression"
    assert compare(same, fewer).outcome() == "nothing to compare"
    assert compare(same, fewer).outcome(allow_missing=True) == "ok"
    assert compare(fewer, same).outcome() == "ok", "what the baseline has not is no loss"
    for empty in (compare(same, other), compare(none, none), compare(none, same)):
        assert empty.outcome(allow_missing=True, allow_inconclusive=True) == "nothing to compare"


def test_callers_are_compared_number_by_number() -> None:
    """Where power is nearly the same at two numbers, which is the knee is chance, and latency twice as long at one."""

    def of_callers(knee: int, *numbers: int) -> Results:
        def put(data: dict[str, Any]) -> None:
            points = [
                {"callers": n, "count": 99, "throughput": 20.0 * n**0.5, "p50": 0.05 * n**0.5, "p99": 0.1}
                for n in numbers
            ]
            (of,) = (of for of in data["cells"][0]["measurements"] if of["scenario"] == "concurrent")
            of["concurrency"] = {"knee": knee, "points": points}
            p50 = next(point["p50"] for point in points if point["callers"] == knee)
            of["processes"] = [{**process, "p50": p50, "callers": points} for process in of["processes"]]

        data: dict[str, Any] = document(loads=True)  # type: ignore[assignment]
        put(data)
        return Results.check(data)

    row = row_of(compare(of_callers(1, 1, 2, 4), of_callers(4, 2, 4, 8)).rows, "concurrent")
    assert row.verdict == "same within noise"
    assert [metric.name for metric in row.metrics[:4]] == [
        "median at 2", "throughput at 2", "median at 4", "throughput at 4"
    ]  # fmt: skip
    others = row_of(compare(of_callers(2, 1, 2), of_callers(8, 8)).rows, "concurrent")
    assert (others.verdict, others.reason) == ("not comparable", "no number of callers is in every process of both")


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


def test_memory_that_other_measurements_left_is_no_regression() -> None:
    """A batch of one after one of 32 holds what that took."""

    def measure(data: dict[str, Any], *indices: int) -> None:
        first = data["cells"][0]
        first["measurements"] = [first["measurements"][index] for index in indices]
        first["measurements"][-1]["peak_host_bytes"] = max(of["peak_host_bytes"] for of in first["measurements"])
        data["cells"] = [first]

    alone, after_a_large_one = changed(lambda d: measure(d, 0)), changed(lambda d: measure(d, 3, 0))
    found = row_of(compare(alone, after_a_large_one).rows, "single-stream")
    assert (found.metrics[-1].name, found.metrics[-1].verdict) == ("peak_host_bytes", "inconclusive")
    assert "other measurements came before it" in (found.metrics[-1].reason or "")
    assert (found.verdict, found.regression) == ("same within noise", False)


def test_the_server_is_judged_by_its_rates() -> None:
    def rates(data: dict[str, Any], factor: float | None) -> None:
        for process in measurement(data, 15)["processes"]:
            process["max_rate"] = factor and factor * process["max_rate"]

    found = row_of(compare(results(), changed(lambda d: rates(d, 0.5))).rows, "server", 8)
    assert (found.verdict, found.metrics[0].name, found.regression) == ("slower", "max_rate", True)
    none = row_of(compare(results(), changed(lambda d: rates(d, None))).rows, "server", 8)
    assert (none.verdict, none.reason, none.regression) == ("slower", "no rate held in B", True)
    better = row_of(compare(changed(lambda d: rates(d, None)), results()).rows, "server", 8)
    assert (better.verdict, better.regression) == ("faster", False)

    def one(data: dict[str, Any]) -> None:
        measurement(data, 15)["processes"][0]["max_rate"] = None

    some = row_of(compare(results(), changed(one)).rows, "server", 8)
    assert (some.verdict, some.reason) == ("inconclusive", "no rate held")
    busy = changed(lambda d: (rates(d, None), d["noise"].update(load_during=0.5)))
    assert row_of(compare(results(), busy).rows, "server", 8).verdict == "inconclusive"


def test_servers_under_other_bounds_are_not_compared() -> None:
    other = changed(lambda d: measurement(d, 15)["server"].update(latency_bound_s=9.0, offered_rate=5.0))
    found = row_of(compare(results(), other).rows, "server", 8)
    assert found.verdict == "not comparable"
    assert "other bounds" in (found.reason or "")


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
        (lambda d: d["machine"]["cpu"].update(quota=1.5), "the quota of processors is not there in A and 1.5 in B"),
        (lambda d: d["machine"]["gpus"][0].update(ecc=True), "ECC of GPU 0 is not there in A and on in B"),
        (lambda d: d["machine"]["gpus"][0].update(mig=False), "MIG of GPU 0 is not there in A and off in B"),
        (
            lambda d: d["machine"]["gpus"][0].update(power_limit_w=70.0),
            "limit of GPU 0 in watts is not there in A and 70",
        ),
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
    assert {row.verdict for row in found.rows} == {"inconclusive"}
    assert "B: the machine was busy: other processes used 37 % of the CPU" in found.warnings
    assert found.rows[2].warnings == ("B never became stable in its warm-up",)
    assert found.rows[0].warnings == ()


def test_calls_that_took_no_time_are_not_compared() -> None:
    def stand_still(data: dict[str, Any]) -> None:
        measurement(data)["processes"][0]["p50"] = 0.0

    found = compare(results(), changed(stand_still)).rows[0]
    assert (found.verdict, found.reason) == ("not comparable", "no time was measured")
    assert found.metrics == ()
    assert not found.regression


@pytest.mark.parametrize("threshold", [-0.01, 1, 5, float("nan")])
def test_the_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(InputError, match=r"0\.05 for 5 %"):
        compare(results(), results(), threshold)


def test_ab_looks_at_the_threshold_before_it_measures() -> None:
    nothing: Any = None
    with pytest.raises(InputError, match="threshold is 5; expected a share"):
        run_ab(nothing, nothing, nothing, (), threshold=5)


def test_json_holds_all_of_it() -> None:
    found = compare(results(), results(seed=7, factor=1.2))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(data["rows"]) == 48
    assert data["regressions"] == [row.name for row in found.regressions]
    assert data["rows"][0]["metrics"][0]["ci99"] == list(found.rows[0].metrics[0].ci99 or ())
    assert data["rows"][0]["regression"] is True
    assert np.isclose(data["threshold"], 0.05)
