from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from coda_runtime import InputError
from coda_runtime.bench.results import Results, schema
from coda_runtime.bench.schema import find_violation
from tests.runtime.bench.examples import document

Change = Callable[[dict[str, Any]], object]


def cell(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["cells"][0]
    return found


def first(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cell(data)["measurements"][0]
    return found


GOOD: dict[str, Change] = {
    "as it is": lambda d: None,
    "another key": lambda d: d.update(later={"a": 1}),
    "another key inside": lambda d: first(d).update(later=None),
    "no gpus": lambda d: d["machine"].update(gpus=[]),
    "nothing known of the processor": lambda d: d["machine"]["cpu"].update(model=None, flags=None),
    "nothing loaded": lambda d: cell(d).update(load=None),
    "a whole float": lambda d: first(d).update(batch=1.0),
    "thinned": lambda d: first(d)["latency_s"].update(samples_thinned=True),
    "no parts": lambda d: first(d).update(parts_s=None),
    "no transfers": lambda d: first(d).update(transfers_s=None),
    "nothing about transfers": lambda d: first(d).pop("transfers_s", None),
    "no timeline and no roofline": lambda d: first(d).update(timeline=None, roofline=None),
    "neither key": lambda d: [first(d).pop(key) for key in ("timeline", "roofline")],
}
# What the schema itself refuses: the key that the message names.
BAD: dict[str, tuple[Change, str]] = {
    "no noise": (lambda d: d.pop("noise"), "noise"),
    "version 0": (lambda d: d.update(format_version=0), "format_version"),
    "version true": (lambda d: d.update(format_version=True), "format_version"),
    "cells is an object": (lambda d: d.update(cells={}), "cells"),
    "a cell is a number": (lambda d: d["cells"].insert(1, 3), "cells[1]"),
    "threads 0": (lambda d: cell(d).update(threads=0), "cells[0].threads"),
    "threads true": (lambda d: cell(d).update(threads=True), "cells[0].threads"),
    "threads 1.5": (lambda d: cell(d).update(threads=1.5), "cells[0].threads"),
    "no backend": (lambda d: cell(d).pop("backend"), "cells[0].backend"),
    "an empty problem": (lambda d: cell(d).update(problem=""), "cells[0].problem"),
    "a profile of two numbers": (
        lambda d: cell(d)["artifacts"][0].update(profiles=[[1, 2]]),
        "cells[0].artifacts[0].profiles[0]",
    ),
    "load is a list": (lambda d: cell(d).update(load=[]), "cells[0].load"),
    "load lacks a key": (lambda d: cell(d)["load"].pop("load_s"), "cells[0].load.load_s"),
    "a library's version is a number": (lambda d: d["machine"]["libraries"].update(numpy=2), "machine.libraries.numpy"),
    "an unknown operation": (lambda d: first(d).update(operation="train"), "cells[0].measurements[0].operation"),
    "batch as text": (lambda d: first(d).update(batch="1"), "cells[0].measurements[0].batch"),
    "a negative duration": (lambda d: first(d)["latency_s"].update(min=-1.0), "cells[0].measurements[0].latency_s.min"),
    "no samples": (lambda d: first(d)["latency_s"].update(samples=[]), "cells[0].measurements[0].latency_s.samples"),
    "a sample is null": (
        lambda d: first(d)["latency_s"]["samples"].__setitem__(4, None),
        "cells[0].measurements[0].latency_s.samples[4]",
    ),
    "three ends of an interval": (
        lambda d: first(d)["latency_s"].update(ci95=[1, 2, 3]),
        "cells[0].measurements[0].latency_s.ci95",
    ),
    "a span that begins before its call": (
        lambda d: first(d)["timeline"]["spans"][0].update(start_s=-1e-9),
        "cells[0].measurements[0].timeline.spans[0].start_s",
    ),
    "more spans than anybody could read": (
        lambda d: first(d)["timeline"].update(spans=first(d)["timeline"]["spans"] * 13),
        "cells[0].measurements[0].timeline.spans",
    ),
    "a roof of nothing": (
        lambda d: first(d)["roofline"].update(peak_bytes=0),
        "cells[0].measurements[0].roofline.peak_bytes",
    ),
    "a load over 1": (lambda d: d["noise"].update(load_during=1.2), "noise.load_during"),
    "a short checksum": (lambda d: d["images"].update(sha256="ab"), "images.sha256"),
    "a copy that ends before it begins": (
        lambda d: first(d).update(transfers_s={"host_to_device": -1.0}),
        "cells[0].measurements[0].transfers_s.host_to_device",
    ),
    "a process's transfers as a list": (
        lambda d: first(d)["processes"][0].update(transfers_s=[1.0]),
        "cells[0].measurements[0].processes[0].transfers_s",
    ),
    "a part's time as text": (
        lambda d: first(d)["parts_s"].update(encoder="1"),
        "cells[0].measurements[0].parts_s.encoder",
    ),
}
# What a schema cannot say.
INCONSISTENT: dict[str, tuple[Change, str]] = {
    "percentiles fall": (lambda d: first(d)["latency_s"].update(p99=0.0), "rising order"),
    "the interval is turned round": (lambda d: first(d)["latency_s"].update(ci95=[2.0, 1.0]), "lower end first"),
    "measured twice": (lambda d: cell(d)["measurements"].append(first(d)), "once in a cell"),
    "a cell twice": (lambda d: d["cells"].append(cell(d)), "each combination once"),
    "a problem, and measurements": (lambda d: cell(d).update(problem="it failed"), "the cell has a problem"),
    "a server without numbers": (
        lambda d: first(d).update(scenario="server", batch=99),
        "the scenario server or offered",
    ),
}


def changed(change: Change) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(document())  # type: ignore[assignment]
    change(data)
    return data


@pytest.mark.parametrize("name", GOOD)
def test_what_is_read(name: str) -> None:
    data = changed(GOOD[name])
    assert Results.check(data).data is data


@pytest.mark.parametrize("name", BAD)
def test_what_is_rejected_names_the_key(name: str) -> None:
    change, key = BAD[name]
    found = find_violation(changed(change), schema())
    assert found is not None
    assert found.where == key
    with pytest.raises(InputError) as raised:
        Results.check(changed(change), "a.json")
    message = str(raised.value)
    assert message.startswith(f"a.json: {key}: found {found.found}, expected {found.expected};")
    assert "coda bench run" in message


@pytest.mark.parametrize("name", INCONSISTENT)
def test_contradictions_are_rejected(name: str) -> None:
    change, words = INCONSISTENT[name]
    assert find_violation(changed(change), schema()) is None
    with pytest.raises(InputError, match=words):
        Results.check(changed(change))


def test_the_schema_says_the_same_to_jsonschema() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    jsonschema.Draft202012Validator.check_schema(schema())
    for change in GOOD.values():
        assert validator.is_valid(changed(change))
    for name, (change, _) in BAD.items():
        assert not validator.is_valid(changed(change)), name
    for change, _ in INCONSISTENT.values():
        assert validator.is_valid(changed(change))


def test_keywords_that_the_checker_does_not_know_are_not_ignored() -> None:
    with pytest.raises(ValueError, match="uniqueItems"):
        find_violation([1, 1], {"type": "array", "uniqueItems": True})


@pytest.mark.parametrize("data", [None, [], {}, {"format": "coda-tokens"}])
def test_another_kind_of_file(data: object) -> None:
    with pytest.raises(InputError, match="'coda-bench'"):
        Results.check(data)


def test_a_newer_file_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"format_version is 3.*upgrade coda-runtime"):
        Results.check({"format": "coda-bench", "format_version": 3})


def test_saved_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    Results.check(document()).save(path)
    again = Results.load(path)
    assert again.data == document()
    assert again.source == str(path)
    # Thousands of samples lie on one line.
    assert len(path.read_text(encoding="utf-8").splitlines()) < 9000


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results.check(document()).save(path)
    before = path.read_bytes()
    broken = changed(lambda d: first(d).update(throughput=float("nan")))
    with pytest.raises(InputError, match="throughput"):
        Results(broken).save(path)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"format": NaN}', "not JSON"),
        ('{"format": "coda-bench", "format": 1}', "twice"),
        ("[" * 100_000, "not JSON"),
        ('{"format": 1e999}', "not JSON"),
        ('{"a": ' * 65 + "1" + "}" * 65, "not JSON"),
        (json.dumps({"format": "coda-bench", "format_version": 2}), "created"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as raised:
        Results.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("value", [1e308, 1.7e31, 5e-324, 10**40])
def test_numbers_that_overflow_what_is_made_of_them(tmp_path: Path, value: float) -> None:
    data = changed(lambda d: first(d)["latency_s"].update(samples=[value] * 8))
    with pytest.raises(InputError, match=r"cells\[0\]\.measurements\[0\]\.latency_s\.samples\[0\]: found .* 1e\+30"):
        Results.check(data)
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"results\.json"):
        Results.load(tmp_path / "results.json")


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff")
    for name in ("missing.json", "picture.json", "."):
        with pytest.raises(InputError, match="cannot be read"):
            Results.load(tmp_path / name)


def test_results_of_version_1_are_read_and_conclude_nothing() -> None:
    """They told high percentiles of however few samples, and did not tell processes apart."""
    then = document()
    old = json.loads(json.dumps(then))
    old["format_version"] = 1
    for cell in old["cells"]:
        for of in cell["measurements"]:
            del of["processes"]
            latency = of["latency_s"]
            for name in ("count", "p90_upper", "p99_upper"):
                del latency[name]
            latency.update(p90=latency["max"], p99=latency["max"])
    found = Results.check(old).data
    assert found["format_version"] == 2
    for now, before in zip(found["cells"][0]["measurements"], then["cells"][0]["measurements"], strict=True):
        (process,) = now["processes"]
        assert process["count"] == now["latency_s"]["count"] == before["repeats"]
        assert process["p50"] == before["latency_s"]["p50"]
        assert now["latency_s"]["p99_upper"] == before["latency_s"]["p99_upper"]
        assert (now["latency_s"]["p99"] is None) == (before["repeats"] < 662)
