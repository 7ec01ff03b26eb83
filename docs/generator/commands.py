"""The page of the commands, from the same click objects that --help is printed of."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from coda_runtime.cli import app

_HEAD = """# Commands

What `--help` prints, of every command. Errors are one line on stderr and exit code 1; `--debug` shows the traceback.
Exit code 2 is a command line that cannot be read. No command replaces a result that is there without `--force`.
"""


def page() -> str:
    """Return the page: a table of all commands, then a section of each."""
    context = click.Context(app.cli, info_name="coda")
    found = [(name, app.cli.get_command(context, name)) for name in app.cli.list_commands(context)]
    commands = [(f"coda {name}", command) for name, command in found if command is not None]
    lines = [_HEAD, "| command | does |", "| --- | --- |"]
    lines += [f"| [`{name}`](#{_anchor(name)}) | {escaped(_first(command))} |" for name, command in commands]
    for name, command in commands:
        lines += ["", *_section(name, command, 2)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return text that means itself in a cell of a table; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _section(name: str, command: click.Command, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"{'#' * level} {name}"
    yield ""
    for paragraph in (command.help or "").replace("\b", "").split("\n\n"):
        yield escaped(paragraph)
        yield ""
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"```text\n{' '.join(usage.split())}\n```"
    yield ""
    yield from _table("argument", _arguments(command))
    yield from _table("option", _options(command, context))
    if command.epilog:
        example = command.epilog.replace("\b", "").strip().removeprefix("Example:")
        yield "```sh\n" + "\n".join(line.removeprefix("  ") for line in example.strip("\n").splitlines()) + "\n```"
        yield ""
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None:
                yield from _section(f"{name} {inner}", found, level + 1)


def _table(what: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield f"| {what} | meaning |"
        yield "| --- | --- |"
        yield from (f"| `{name}` | {escaped(meaning)} |" for name, meaning in rows)
        yield ""


def _arguments(command: click.Command) -> list[tuple[str, str]]:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    rows = []
    for argument in arguments:
        record = getattr(argument, "help", None)
        if record:
            rows.append((argument.human_readable_name, str(record)))
    return rows


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = [option.get_help_record(context) for option in options]
    return [record for record in records if record is not None]


def _plain(text: str) -> str:
    return re.sub(r"([\\*_|\[\]])", r"\\\1", text.replace("<", "&lt;").replace(">", "&gt;"))


def _first(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0]


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
