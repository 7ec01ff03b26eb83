from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coda_runtime import CodaError
from coda_runtime.cli.base import command, print_json, progress, table


@command(name="boom", example="coda boom coda")
@click.argument("kind")
def boom(kind: str) -> None:
    """Fail in some way."""
    if kind == "coda":
        raise CodaError("first line\nsecond   line")
    if kind == "os":
        Path("/nothing/here").read_text()
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "usage":
        raise click.UsageError("not like this")
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("coda", 1, "error: first line second line\n"),
        ("os", 1, "error: /nothing/here: No such file or directory; run again with --debug for the traceback\n"),
        ("interrupt", 130, "error: interrupted\n"),
        ("bug", 1, "error: unexpected ZeroDivisionError: by zero; run again with --debug for the traceback\n"),
    ],
)
def test_failures_are_one_line(kind: str, code: int, line: str) -> None:
    done = CliRunner().invoke(boom, [kind])
    assert (done.exit_code, done.stderr, done.stdout) == (code, line, "")


def test_wrong_usage_is_2() -> None:
    for arguments in (["usage"], [], ["a", "b"], ["--what"]):
        assert CliRunner().invoke(boom, arguments).exit_code == 2


def test_debug_lets_the_exception_through() -> None:
    assert isinstance(CliRunner().invoke(boom, ["--debug", "coda"]).exception, CodaError)
    assert isinstance(CliRunner().invoke(boom, ["bug", "--debug"]).exception, ZeroDivisionError)


def test_json_is_json() -> None:
    @click.command()
    def show() -> None:
        print_json({"psnr": None, "name": "ä"})

    assert json.loads(CliRunner().invoke(show).stdout) == {"psnr": None, "name": "ä"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("inf"))


def test_tables_in_a_pipe_are_never_cut() -> None:
    @click.command()
    def show() -> None:
        table([("x" * 300, 1), ("[red]", None)], columns=("name", "n"))

    lines = CliRunner().invoke(show).stdout.splitlines()
    assert [line.split() for line in lines] == [["name", "n"], ["x" * 300, "1"], ["[red]"]]


def test_no_progress_bar_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("working", 3) as bar:
        bar.advance()
        bar.describe("still working")
    assert capfd.readouterr() == ("", "")


def test_a_progress_bar_on_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    code = "from coda_runtime.cli.base import progress\nwith progress('working', 2) as bar: bar.advance(2)"
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=slave, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert done.returncode == 0
    assert done.stdout == b""
    assert "working" in shown
    assert "2/2" in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(
    sealed: Path, photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    script = f"""
import sys, time
from pathlib import Path
import coda_runtime.cli.decode, coda_runtime.cli.encode
import coda_runtime.images as module
from coda_runtime.cli import main
def slow(path, picture):
    path.write_text("half")
    print("here", flush=True)
    time.sleep(120)
module.save_png = slow
sys.argv = ["coda", "decode", {str(sealed)!r}, "tokens.npz", "--out", "pictures"]
main()
"""
    run = [sys.executable, "-c", "from coda_runtime.cli import main; main()"]
    subprocess.run(
        [*run, "encode", sealed, photos, "--out", "tokens.npz"], cwd=tmp_path, check=True, capture_output=True
    )
    before = sorted(tmp_path.rglob("*"))
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        process.wait(60)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == code
    assert sorted(tmp_path.rglob("*")) == before


def test_text_from_a_file_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table([("license", "\x1b]0;owned\x07 \x9b31m \u202eMIT\ud800")])
    assert capsys.readouterr().out == "license  \ufffd]0;owned\ufffd \ufffd31m \ufffdMIT\ufffd\n"
