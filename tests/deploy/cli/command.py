"""The `coda` command in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from coda_runtime.cli.app import cli


def coda(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def one_line(result: Result, *, silent: bool = True) -> str:
    """The one line on stderr that a failure is told in; if ``silent``, nothing was printed before."""
    assert result.exit_code == 1, result.output
    assert not (silent and result.stdout)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line
