"""Commands that messages tell to run: each is there, with the options that it is told with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from coda_runtime.cli import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime/coda_runtime", "coda_deploy", "export/coda_export")
_COMMAND = re.compile(r"\bcoda ([a-z]+(?:-[a-z]+)*)\b([^`;\"\n]*)")
# What follows "coda" in prose.
PROSE = {
    "bundle",
    "that",
    "than",
    "knows",
    "reads",
    "as",
    "or",
    "writes",
    "made",
    "wrote",
    "will",
    "itself",
    "command",
    "commands",
}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string that is no docstring; what is put into it is X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def told(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `coda NAME` of a text, with the options that follow it."""
    for name, rest in _COMMAND.findall(text):
        # Up to the next command, or the end of the clause; prose goes on without options.
        clause = re.split(r"\bcoda [a-z]|[,:] |\. |, | and | or | with ", rest)[0]
        yield name, re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", clause)


def options_of(command: click.Command) -> set[str]:
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        options |= set().union(*(options_of(inner) for inner in command.commands.values()))
    return options | {"--help"}


@pytest.mark.parametrize("package", PACKAGES)
def test_commands_in_messages_are_there(package: str) -> None:
    pytest.importorskip("torch", reason="the commands of coda-deploy are looked at too")
    known, wrong, seen = app.cli.list_commands(click.Context(app.cli)), [], 0
    for path in sorted((ROOT / package).rglob("*.py")):
        for line, text in texts(path):
            for name, options in told(text):
                if name in PROSE:
                    continue
                command = app.cli.get_command(click.Context(app.cli), name) if name in known else None
                seen += 1
                if command is None or set(options) - options_of(command):
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: coda {name} {' '.join(options)}")
    assert wrong == []
    assert seen > 3 or package.startswith("export")  # looked through


@pytest.mark.parametrize("text", ["run coda nothing", "repeat it: coda encode BUNDLE --no-such-option"])
def test_what_is_not_there_would_be_found(text: str) -> None:
    ((name, options),) = told(text)
    command = app.cli.get_command(click.Context(app.cli), name)
    assert command is None or set(options) - options_of(command)
