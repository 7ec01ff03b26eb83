"""What earlier versions measured: results of `coda bench run`, and of `coda eval --json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coda_runtime.bench.results import Results
from tests.compatibility.versions import is_of_release
from tests.deploy.cli.command import coda

SCENARIOS = {"single-stream", "offline", "server"}


def test_a_benchmark_is_compared_and_shown(written: Path, tmp_path: Path) -> None:
    file = written / "bench.json"
    (cell,) = Results.load(file).data["cells"]
    assert {of["scenario"] for of in cell["measurements"]} == SCENARIOS
    # 0.1 measured in one process, which says nothing of what differs between two; a disturbed machine says as little.
    inconclusive = 3
    expected = {inconclusive} if is_of_release(written, "0.1") else {0, inconclusive}
    assert coda("bench", "compare", file, file).exit_code in expected
    result = coda("bench", "compare", file, file, "--json", "--allow-inconclusive")
    assert result.exit_code == 0, result.output
    compared = json.loads(result.stdout)
    assert compared["regressions"] == []
    assert len(compared["rows"]) == len(cell["measurements"])
    page = tmp_path / "report.html"
    result = coda("bench", "report", file, "--out", page)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert all(scenario in text for scenario in SCENARIOS)


def test_what_is_measured_now_compares_with_it(written: Path, tmp_path: Path) -> None:
    """The same operation of the same tokenizer is known as the same measurement."""
    then, now = written / "bench.json", tmp_path / "now.json"
    options = ["--operation", "encode", "--batch", "2", "--seconds", "0.01", "--device", "cpu", "--threads", "1"]
    options += ["--repeat-process", "1"]
    result = coda("bench", "run", written / "bundle", *options, "--out", now)
    assert result.exit_code == 0, result.output
    compared = json.loads(coda("bench", "compare", then, now, "--json").stdout)
    (row,) = [row for row in compared["rows"] if row["metrics"]]
    assert "single-stream" in row["name"]


@pytest.mark.numeric
def test_an_evaluation_gives_the_same_metrics(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    then = json.loads((written / "eval.json").read_text(encoding="utf-8"))
    result = coda("eval", "tokenizer", "--data", "pictures", "--against", "bundle", "--json")
    assert result.exit_code == 0, result.output
    now = json.loads(result.stdout)
    assert now.keys() >= then.keys()
    for name, value in then.items():
        if isinstance(value, float):
            assert now[name] == pytest.approx(value, abs=1e-3, rel=1e-3), name
        elif isinstance(value, int) or value is None:
            assert now[name] == value, name
    for scale, before in zip(now["scales"], then["scales"], strict=True):
        assert scale.keys() >= before.keys()
        assert (scale["side"], scale["tokens"]) == (before["side"], before["tokens"])
    for part in ("subject", "against", "spec"):
        assert now[part].keys() >= then[part].keys()
    assert [image["name"] for image in now["skipped"]] == [image["name"] for image in then["skipped"]]
