from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coda_runtime.cli import pull, push
from tests.hub_server import Hub
from tests.runtime.hub.conftest import REPO, files


def coda(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    code = f"from coda_runtime.cli.{name} import command; command(prog_name='coda {name}')"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_push_and_pull(hub: Hub, measured: Path, tmp_path: Path) -> None:
    pushed = coda("push", measured, REPO, "--json")
    assert pushed.returncode == 0, pushed.stderr
    told = json.loads(pushed.stdout)
    assert (told["commit"], told["card"]) == (hub.refs[REPO]["main"], True)
    pulled = coda("pull", f"{REPO}@{told['commit']}", "--out", tmp_path / "out")
    assert (pulled.returncode, pulled.stderr) == (0, ""), pulled
    assert pulled.stdout.splitlines()[1] == f"to get exactly this again: {REPO}@{told['commit']}"
    assert files(tmp_path / "out") == files(measured)


def test_a_failure_is_one_line(hub: Hub, tmp_path: Path) -> None:
    done = CliRunner().invoke(pull.command, ["org/nothing", "--out", str(tmp_path / "none")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no model 'org/nothing'")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", [push.command, pull.command])
def test_help_has_an_example(command: click.Command) -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    assert f"Example:\n    coda {command.name} " in done.output
    assert CliRunner().invoke(command, []).exit_code == 2
