"""What every `coda` command shares: --debug, one-line errors, a progress bar, tables and JSON.

    from coda_runtime.cli.base import command

    @command(example="coda hello world")
    @click.argument("name")
    def hello(name: str) -> None:
        "Greet somebody."

A command raises CodaError for what it can explain; it becomes one line on stderr and exit code 1.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click

from ..errors import CodaError, missing_module, one_line
from .tables import footnote, printable, table

__all__ = [
    "CodaCommand",
    "command",
    "debug_option",
    "footnote",
    "json_option",
    "one_line_errors",
    "print_json",
    "printable",
    "progress",
    "table",
    "warn",
]

F = TypeVar("F", bound=Callable[..., Any])
_DEBUG = "coda.debug"


def debug_option() -> click.Option:
    """Return the --debug of the `coda` group and of every command, so that it may come before or after the command."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.meta[_DEBUG] = value or ctx.meta.get(_DEBUG, False)

    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=remember, help="Show the traceback of an error."
    )


@contextmanager
def one_line_errors(ctx: click.Context) -> Iterator[None]:
    """Turn an exception into one line on stderr and an exit code; with --debug let it through."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(ctx, "interrupted", 130)
    except Exception as error:
        if isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort)) or ctx.meta.get(_DEBUG):
            raise
        if isinstance(error, CodaError):
            _fail(ctx, str(error))
        if isinstance(error, ImportError) and (missing := missing_module(f"`{ctx.command_path}`", error)) is not None:
            _fail(ctx, str(missing))
        if isinstance(error, OSError) and error.errno == errno.EPIPE:  # `coda inspect X | head`: click handles it
            raise
        if isinstance(error, OSError) and error.filename is not None:
            _fail(ctx, f"{error.filename}: {one_line(error)}; run again with --debug for the traceback")
        _fail(ctx, f"unexpected {one_line(error, named=True, limit=None)}; run again with --debug for the traceback")


class CodaCommand(click.Command):
    """A click command with --debug, one-line errors, and an example at the end of its help."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        if example:
            lines = "\n".join(f"  {line}" for line in example.splitlines())
            kwargs.setdefault("epilog", f"\b\nExample:\n{lines}")
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with one_line_errors(ctx):
            return super().invoke(ctx)


def command(*, example: str, name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], CodaCommand]:
    """Decorate a function with click options as a `coda` command. `settings` go to `click.command`."""
    return click.command(name, cls=CodaCommand, example=example, **settings)


def json_option(function: F) -> F:
    """Add --json, passed as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def warn(text: str) -> None:
    """Print one line of warning on stderr; nothing where there is no text."""
    if text:
        click.echo(f"warning: {printable(one_line(text, limit=None))}", err=True)


def print_json(data: object) -> None:
    """Print as JSON on stdout. Numbers must be finite: use None for null. Raises ValueError otherwise."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


class Progress:
    """A progress bar, or on anything but a terminal nothing."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task = bar, task

    def advance(self, steps: float = 1) -> None:
        """Go on by some of the total's steps."""
        if self._bar is not None:
            self._bar.advance(self._task, steps)

    def reach(self, done: float, total: float) -> None:
        """Show so many steps of so many."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def describe(self, text: str) -> None:
        """Change the words beside the bar."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)


@contextmanager
def progress(text: str, total: float | None) -> Iterator[Progress]:
    """Show a progress bar on stderr if that is a terminal, nothing in a pipe. `total` None: the length is unknown."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    from rich import progress as rich_progress
    from rich.console import Console

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        yield Progress(bar, bar.add_task(text, total=total))


def _fail(ctx: click.Context, message: str, code: int = 1) -> NoReturn:
    click.echo(f"error: {printable(one_line(message, limit=None))}", err=True)
    ctx.exit(code)
