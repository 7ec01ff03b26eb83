"""gpu.json of `python -m benchmarks.gpu`, read as results: the same numbers, and nothing is concluded from them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import InputError
from coda_runtime.bench.compare import compare
from coda_runtime.bench.gpu_results import check_gpu_json, from_gpu_json, schema
from coda_runtime.bench.reading import compare_cells_of_file, compare_files, read_results
from coda_runtime.bench.report import render
from coda_runtime.bench.results import Results
from tests.runtime.bench.examples import document
from tests.runtime.bench.gpu_examples import CONTENDERS, early, gpu_json

T = TypeVar("T")
Change = Callable[[dict[str, Any]], object]
MEASURED = sorted((Path(__file__).parents[3] / "benchmarks" / "results").glob("gpu-*.json"))


def test_the_numbers_are_those_of_the_rows() -> None:
    (found,) = from_gpu_json(gpu_json())
    data = found.data
    assert [(cell["backend"], cell["precision"], cell["device"]) for cell in data["cells"]] == [
        (name, precision, "cuda:0") for name, precision, _ in CONTENDERS
    ]
    of = next(of for of in data["cells"][0]["measurements"] if of["batch"] == 32)
    ms = 10 * 32**0.9
    assert (of["operation"], of["scenario"], of["repeats"]) == ("encode", "single-stream", 40)
    assert of["latency_s"]["p50"] == pytest.approx(ms / 1e3)
    assert of["latency_s"]["ci95"] == pytest.approx([0.99e-3 * ms, 1.02e-3 * ms])
    assert of["latency_s"]["samples_thinned"] is True
    assert (of["latency_s"]["p90"], of["latency_s"]["p90_upper"]) == (None, pytest.approx(1.1e-3 * ms))
    assert of["throughput"] == pytest.approx(32e3 / ms)
    assert of["peak_device_bytes"] is None, "what all processes hold is not this one's"
    (gpu,) = data["machine"]["gpus"]
    assert (gpu["name"], gpu["driver"], gpu["max_clock_mhz"]) == ("Made-up A10", "1.0", 1695.0)
    left_out, missing = data["noise"]["warnings"]
    assert left_out.startswith("6 rows of gpu.json by other clocks")
    assert missing == "tensorrt fp32 cuda:0 did not run: made up"


def test_a_result_for_each_shape() -> None:
    found = from_gpu_json(gpu_json(shapes=("mar_v16384", "sample")), "sent/gpu.json")
    assert [of.source for of in found] == ["sent/gpu.json (mar_v16384)", "sent/gpu.json (sample)"]
    assert {of.file for of in found} == {"sent/gpu.json"}
    page = render(found)
    assert "mar_v16384 and sample" in page
    assert "share no fingerprint" not in page, "they were never meant to be compared"


@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("written", [gpu_json, lambda *of: early(gpu_json(*of))], ids=["now", "early"])
def test_one_process_concludes_nothing(written: Callable[..., dict[str, Any]], factor: float) -> None:
    found = compare_files(from_gpu_json(written()), from_gpu_json(written("A10", factor)))
    timed = [row for row in found.rows if row.metrics]
    assert len(timed) == 12
    for row in timed:
        assert (row.verdict, row.regression) == ("inconclusive", False)
        assert row.reason is not None
        assert "processes: 1 and 1; a verdict needs 5" in row.reason
        assert {metric.name for metric in row.metrics} == {"median", "throughput"}, "no memory, no unknown percentile"
    assert timed[0].metrics[0].ratio == pytest.approx(1 / factor)
    assert found.outcome() == "inconclusive"


def test_beside_results_of_coda_bench() -> None:
    """The same tokenizer on the same images, by a backend of the same name, is compared; other work is not."""
    data: dict[str, Any] = copy.deepcopy(document())  # type: ignore[assignment]
    of_gpu = gpu_json()
    bundle = {**of_gpu["shapes"]["mar_v16384"]["bundle"], "folder": "my-bundle", "manifest_sha256": "e" * 64}
    data.update(bundle=bundle, images={**of_gpu["shapes"]["mar_v16384"]["images"], "source": "other words"})
    data["cells"] = [{**data["cells"][0], "backend": "onnxruntime", "device": "cuda:0", "threads": None}]
    found = compare_files(from_gpu_json(of_gpu), [Results.check(data)])
    both = [row for row in found.rows if row.metrics]
    assert {(row.operation, row.scenario, row.batch) for row in both} == {
        (operation, "single-stream", batch) for operation in ("encode", "decode") for batch in (1, 32)
    }
    assert {row.verdict for row in both} == {"inconclusive"}
    assert found.outcome(allow_missing=True) == "inconclusive"
    data["images"]["sha256"] = "f" * 64
    other = compare_files(from_gpu_json(of_gpu), [Results.check(data)])
    assert any("the images differ" in text for text in other.other_work)
    assert not any(row.compared for row in other.rows)


def test_shapes_are_compared_with_their_own_kind() -> None:
    a = from_gpu_json(gpu_json(shapes=("mar_v16384", "sample")), "a.json")
    b = from_gpu_json(gpu_json(factor=2.0, shapes=("sample", "flux_v65536")), "b.json")
    found = compare_files(a, b)
    assert (found.a, found.b) == ("a.json", "b.json")
    verdicts = {(row.bundle, row.verdict) for row in found.rows}
    assert verdicts == {("mar_v16384", "only in A"), ("sample", "inconclusive"), ("flux_v65536", "only in B")}
    assert "encode, single-stream, batch 32 (sample: tensorrt bf16 cuda:0)" in {row.name for row in found.rows}
    assert found.outcome() == "nothing to compare", "B lacks what A has"
    assert found.outcome(allow_missing=True) == "inconclusive"


def test_cells_of_each_shape() -> None:
    results = from_gpu_json(gpu_json(shapes=("mar_v16384", "sample")))
    found = compare_cells_of_file(results, "backend")
    assert {(row.bundle, row.backend) for row in found.rows} == {
        ("mar_v16384", "onnxruntime to torch-eager"),
        ("sample", "onnxruntime to torch-eager"),
    }
    assert found.outcome() == "inconclusive"
    with pytest.raises(InputError, match="differ in threads alone"):
        compare_cells_of_file(results, "threads")


def test_what_did_not_run_the_second_time_is_missing_and_no_regression() -> None:
    again = gpu_json()
    for row in again["rows"]:
        if row["contender"] == "tensorrt":
            row["reason"] = "the time of the call was over"
    found = compare_files(from_gpu_json(gpu_json()), from_gpu_json(again))
    assert not found.regressions
    assert found.outcome() == "nothing to compare"
    assert found.outcome(allow_missing=True) == "inconclusive"


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_early_files_are_read(path: Path) -> None:
    found = read_results(path)
    assert {of.data["machine"]["gpus"][0]["name"] for of in found} == {"NVIDIA H200"}
    assert any(of.data["cells"] for of in found) or "sample" in path.stem
    for of in found:
        for cell in of.data["cells"]:
            for measured in cell["measurements"]:
                assert measured["latency_s"]["p99"] is None or measured["repeats"] >= 662


BAD: dict[str, tuple[Change, str]] = {
    "no machine": (lambda d: d.pop("machine"), "machine: found nothing, expected the key to be present"),
    "no device": (lambda d: d["machine"].update(device=None), "machine.device: found None, expected a string"),
    "no rows": (lambda d: d.update(rows=[]), r"rows: found \[\], expected at least 1 item"),
    "no median": (lambda d: d["rows"][2].pop("median_ms"), r"rows\[2\].median_ms: found nothing, expected the key"),
    "no time": (lambda d: d["rows"][2].update(median_ms=0), r"rows\[2\].median_ms: found 0, expected at least 1e-06"),
    "batch": (lambda d: d["rows"][1].update(batch=True), r"rows\[1\].batch: found True, expected a whole number"),
    "empty reason": (lambda d: d["rows"][1].update(reason=""), r"rows\[1\].reason: found '', expected a string that"),
    "twice": (lambda d: d["rows"].append(d["rows"][0]), r"rows\[19\]: found mar_v16384, onnxruntime, .* again"),
    "falling": (lambda d: d["rows"][0].update(best_ms=1e3), r"rows\[0\].median_ms: found 10.0, expected no less than"),
    "a newer one": (lambda d: d.update(format_version=2), "format_version is 2, and this coda reads 1 of coda-gpu"),
    "version 0": (lambda d: d.update(format_version=0), "format_version: found 0, expected 1"),
    "a version as text": (lambda d: d.update(format_version="1"), "format_version: found '1', expected 1"),
    "another format": (lambda d: d.update(format="trtexec"), "format: found 'trtexec', expected 'coda-bench' or"),
    "of the runtime": (lambda d: d.update(format="coda-bench"), "created: found nothing"),
    "a shape's facts": (lambda d: d["shapes"]["mar_v16384"].pop("images"), "shapes.mar_v16384.images: found nothing"),
    "a checksum": (lambda d: d["shapes"]["mar_v16384"]["images"].update(sha256="ab"), "images.sha256: found 'ab'"),
    "huge": (lambda d: d["rows"][0].update(max_ms=1e40), "1e"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_in_a_file_is_named(change: Change, words: str, tmp_path: Path) -> None:
    data = gpu_json()
    change(data)
    path = tmp_path / "sent.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"sent.json.*{words}") as raised:
        read_results(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_a_file_that_was_cut(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(gpu_json())[:cut])
    with pytest.raises(InputError, match=r"cut.json is not JSON .*`python -m benchmarks.gpu run` wrote, all of it"):
        read_results(path)


def said_of(run: Callable[[], T]) -> tuple[T | None, str | None]:
    """What it gives, or else the message of what it raises."""
    try:
        return run(), None
    except InputError as error:
        return None, str(error)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def test_a_name_that_cannot_be_printed_is_shown_as_python_writes_it() -> None:
    found = gpu_json() | {"shapes": {"a\n\x1b[2J": None}}
    _, refusal = said_of(lambda: from_gpu_json(found, "sent.json"))
    assert refusal is not None
    assert refusal.startswith(r"sent.json: shapes.'a\n\x1b[2J': found None, expected an object;")


@given(st.data())
def test_whatever_a_key_becomes_it_is_read_or_named(data: st.DataObject) -> None:
    """One key anywhere is replaced or dropped: results come out, or one line that names the file."""
    found = gpu_json()
    holder: Any = found
    while True:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
        if isinstance(holder[key], (dict, list)) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        break
    if data.draw(st.booleans()):
        holder[key] = data.draw(ANYTHING)
    else:
        del holder[key]
    results, refusal = said_of(lambda: from_gpu_json(found, "sent.json"))
    if refusal is not None:
        assert refusal.startswith("sent.json")
        assert "\n" not in refusal
    for of in results or ():
        Results.check(of.data)
        assert compare(of, of).outcome() != "regression"


@given(st.data())
def test_our_check_is_that_of_json_schema(data: st.DataObject) -> None:
    found = gpu_json()
    row = found["rows"][data.draw(st.integers(0, len(found["rows"]) - 1))]
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(ANYTHING)
    sound = not list(jsonschema.Draft202012Validator(schema()).iter_errors(found))
    _, refusal = said_of(lambda: check_gpu_json(copy.deepcopy(found)))
    # What a schema cannot say is about several keys at once.
    of_several = refusal is not None and ("again" in refusal or "expected no less than" in refusal)
    assert (refusal is None) == sound or of_several
