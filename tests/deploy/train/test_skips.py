"""Images that are left out: told of once, by name, whoever met them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from coda_deploy import distributed
from coda_deploy.data import DataError, Skipped, TrainBatch
from coda_deploy.train.report import Report
from coda_deploy.train.skips import Skips
from tests.deploy.train import runs


def batch(*names: str) -> TrainBatch:
    return TrainBatch(torch.zeros(0), (), tuple(Skipped(name, f"{name} is broken") for name in names))


def test_each_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skips = Skips(Report(tmp_path))
    skips.restore({"old": "known"})
    given = batch("a", "b", "a", "old")
    assert skips.note(given) is given
    skips.note(batch("b", "c"))
    assert skips.gather() == {"old": "known", "a": "a is broken", "b": "b is broken", "c": "c is broken"}
    assert skips.gather() == skips.reasons
    said = [f"skipped {name}: {name} is broken" for name in "abc"]
    assert capsys.readouterr().err.splitlines() == said


def test_none_is_to_be_left_out(tmp_path: Path) -> None:
    skips = Skips(Report(tmp_path), skip_bad=False)
    skips.note(batch())
    with pytest.raises(DataError, match=r"a cannot be used: a is broken \(--skip-bad leaves such images out\)"):
        skips.note(batch("a", "b"))


def test_two_processes(tmp_path: Path) -> None:
    def member() -> None:
        dist.init_process_group("gloo")
        rank = distributed.rank()
        skips = Skips(Report(tmp_path, active=rank == 0))
        skips.note(batch("both", f"own {rank}"))
        (tmp_path / f"{rank}.json").write_text(json.dumps(skips.gather()))
        dist.destroy_process_group()

    runs.together(member, tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()).keys() == {"both", "own 0", "own 1"}
    said = (tmp_path / "rank-0.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in said] == ["skipped both", "skipped own 0", "skipped own 1"]


def test_profiles_that_were_ignored_are_counted_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skips = Skips(Report(tmp_path))
    skips.tell_ignored()
    for names in (("a", "b"), ("b", "c"), ()):
        skips.note(TrainBatch(torch.zeros(0), (), (), names))
    skips.gather()
    skips.tell_ignored()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 3 images have a colour profile other than sRGB (the first: a), which is ignored")
