"""What a training says, and its log."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest

from coda_deploy.train.report import Report, clock
from coda_runtime.errors import OutputError


def test_lines_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path)
    report.say("hello [red]you[/red]")
    with report.phase("step", 10, 4) as phase:
        phase.advance(5)
        phase.show(6, {"total": 0.12345, "lr": 1.0, "psnr": 23.456, "utilization": 1.0, "images_per_second": 7.0})
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "hello [red]you[/red]"
    assert lines[1].startswith("step 6/10  total 0.1235  psnr 23.46  utilization 1.00  7.0 images/s  0:00:00 left")
    assert len(lines) == 2
    assert "\x1b" not in err


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    report = Report(tmp_path)
    with report.phase("step", 10) as phase:
        phase.show(3, {"total": 0.5})
        report.say("[skipped] one")
        phase.advance(10)
    said = terminal.getvalue()
    assert "[skipped] one" in said
    assert "10/10" in said
    # Afterwards lines again.
    report.say("done")
    assert terminal.getvalue().endswith("done\n")


def test_what_has_no_steps_is_shown_on_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(tmp_path)
    with report.busy("loading the VAE"):
        pass
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with report.busy("loading the VAE"):
        pass
    assert "loading the VAE" in terminal.getvalue()


@pytest.mark.parametrize("line", ["5", "null", "[]", "[1]", '"x"', "{}", '{"step": "x"}', "[" * 100_000, "{", "\xff"])
def test_an_odd_line_in_the_log_is_none(tmp_path: Path, line: str) -> None:
    report = Report(tmp_path)
    report.write({"step": 1, "psnr": 20.0})
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    assert report.last() == {}
    report.restart_log(5)
    assert report.last() == {"step": 1, "psnr": 20.0}


def test_steps_without_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Report(tmp_path).phase("images", 64) as phase:
        phase.show(64, {})
    assert capsys.readouterr().err == "images 64/64  0:00:00 left\n"


def test_others_than_the_first_process_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path / "out", active=False)
    report.say("hello")
    report.write({"step": 1})
    report.restart_log(0)
    with report.phase("step", 10) as phase:
        phase.show(1, {})
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_log_goes_on_from_a_step(tmp_path: Path) -> None:
    report = Report(tmp_path)
    assert report.last() == {}
    report.restart_log(3)
    assert list(tmp_path.iterdir()) == []
    for step in (2, 4, 6):
        report.write({"step": step, "l1": 1 / 3})
    assert report.last() == {"step": 6, "l1": 1 / 3}
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "l')
    assert report.last() == {}
    report.restart_log(4)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [2, 4]
    report.write({"step": 5})
    assert report.last() == {"step": 5}
    report.restart_log(-1)
    assert (tmp_path / "log.jsonl").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match=r"log.jsonl cannot be written \(No space left on device\); make room"):
        Report(tmp_path).write({"step": 1})


def test_a_clock() -> None:
    assert [clock(seconds) for seconds in (0, 61.4, 3600, 100 * 3600)] == [
        "0:00:00",
        "0:01:01",
        "1:00:00",
        "100:00:00",
    ]


def test_a_name_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Report(tmp_path).say("skipped \x1b[2Jevil\nerror.png: broken")
    assert capsys.readouterr().err == "skipped \ufffd[2Jevil\ufffderror.png: broken\n"


@pytest.mark.parametrize("value", ["1e999", "NaN", "9" * 400])
def test_a_log_of_numbers_that_are_none(tmp_path: Path, value: str) -> None:
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1, "psnr": 20.0}}\n{{"step": 2, "psnr": {value}}}\n')
    assert Report(tmp_path).last() == {}
