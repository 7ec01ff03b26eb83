"""The script that says how often comparisons are right, and the slow-down that it plants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_verdicts, slowed_worker
from tests.runtime import measurable


class Clock:
    """Moves by 1 ms with each look, and by `seconds` with each run."""

    now = 0.0
    device, batch = "cpu", None

    def __init__(self, seconds: float) -> None:
        self.seconds, self.closed = seconds, False

    def perf_counter(self) -> float:
        self.now += 0.001
        return self.now

    def run(self, batch: Any) -> Any:
        self.now += self.seconds
        return batch + 1

    def close(self) -> None:
        self.closed = True


def test_a_slowed_part_takes_a_share_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(2.0)
    monkeypatch.setattr(slowed_worker, "time", clock)
    session = slowed_worker.SlowedSession(clock, 0.05)
    assert session.run(np.ones(2)).tolist() == [2.0, 2.0]
    assert clock.now == pytest.approx(2.1, abs=0.01)
    session.close()
    assert clock.closed


@pytest.mark.parametrize("turns", [[], ["--ab"]])
def test_verdicts_are_counted(
    turns: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one process a side, so that nothing is concluded; the planted part is far slower."""
    bundle, out = measurable.make(tmp_path / "bundle"), tmp_path / "out.json"
    arguments = [str(bundle), "--tries", "1", "--processes", "1", "--seconds", "0.01", "--slower", "20", *turns]
    monkeypatch.setattr("sys.argv", ["bench_verdicts", *arguments, "--json", str(out)])
    bench_verdicts.main()
    found = json.loads(out.read_bytes())
    assert found["settings"] | {"part": "decoder", "ab": bool(turns), "busy": 0, "slower": 20} == found["settings"]
    assert [len(found[name]) for name in ("same", "slowed")] == [1, 1]
    assert found["slowed"][0]["verdicts"]["median"] == "inconclusive"
    assert found["slowed"][0]["ratio"] > found["same"][0]["ratio"], "twenty times the decoder is beyond any noise"
    assert "same {'inconclusive': 1}" in capsys.readouterr().out
