"""Whatever a page tells to type is something that is there: commands with their options, extras, targets, modules."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable

import click
import pytest
from packaging.requirements import Requirement

from coda_runtime.cli import app
from coda_runtime.requirements import DEPLOY_EXTRAS, ENGINE_EXTRAS, RUNTIME_EXTRAS
from docs.generator.markdown import PROGRAMS
from tests.docs.pages import ROOT, Line, commands, pages

EXTRAS = {"runtime": RUNTIME_EXTRAS, ".": {**ENGINE_EXTRAS, **DEPLOY_EXTRAS}}
EXTRAS |= {"coda_runtime": EXTRAS["runtime"], "coda_deploy": EXTRAS["."]}
COMMANDS = [line for page in pages() for line in commands(page)]


def test_there_are_pages_with_commands() -> None:
    assert len({line.page for line in COMMANDS}) > 10
    assert {line.text.split()[0] for line in COMMANDS} >= {"coda", "make", "pip", "python"}


def _coda(words: list[str], line: Line) -> None:
    """The command line is parsed as `coda` does, which knows every option and how many arguments there may be."""
    words = words[: words.index(">")] if ">" in words else words
    if words[-1:] == ["..."]:  # the page leaves something out
        words = [*words[:-1], "--data", "x", "--out", "x"]
    group: click.Command = app.cli
    context = click.Context(group, info_name="coda")
    while isinstance(group, click.Group):
        name, *words = words
        found = group.get_command(context, name)
        assert found is not None, f"{line}: there is no command {name}"
        group = found
    try:
        group.make_context(group.name, words, resilient_parsing=False)
    except click.UsageError as error:
        # A file that must be there is made by the page, or the reader's own.
        if "does not exist" not in error.message:
            raise AssertionError(f"{line}: {error.format_message()}") from error


def _pip(words: list[str], line: Line) -> None:
    words = [word for word in words if word not in ("--no-cache-dir",)]
    if words[0] == "download":
        return
    assert words.pop(0) == "install", line
    for option in ("-c", "--extra-index-url"):
        if option in words:
            at = words.index(option)
            assert option != "-c" or (ROOT / words[at + 1]).is_file(), line
            del words[at : at + 2]
    # coda-deploy asks for coda-runtime, which pip would look for in an index.
    assert not any(word.startswith(".") for word in words) or any(word.startswith("./runtime") for word in words), line
    for word in words:
        path, _, extras = word.partition("[")
        if path.startswith((".", "/", "dist/")):
            name = path.removeprefix("./") if path.startswith(".") else path.split("/")[-1].split("-")[0]
            assert set(filter(None, extras.rstrip("]").split(","))) <= EXTRAS[name].keys(), f"{line}: {word}"
        else:
            assert not Requirement(word).name.startswith("coda"), f"{line}: no index has {word}"


def _make(words: list[str], line: Line) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(words) <= set(targets), line


def _python(words: list[str], line: Line) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, line
    elif words[0] != "-":
        assert (ROOT / words[0]).is_file(), line


def _torchrun(words: list[str], line: Line) -> None:
    _coda(words[words.index("coda") + 1 :], line)


CHECKS: dict[str, Callable[[list[str], Line], None]] = {
    "coda": _coda,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "torchrun": _torchrun,
}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.text.split()[0] in CHECKS], ids=str)
def test_it_is_there(line: Line) -> None:
    program, *words = shlex.split(line.text.split("\n")[0])
    CHECKS[program](words, line)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.text.split()[0] not in CHECKS], ids=str)
def test_other_programs_are_known(line: Line) -> None:
    first = line.text.split()[0]
    assert first in PROGRAMS or "=" in first or first == "{", line


@pytest.mark.parametrize("text", ["coda encode x --no-such-option", "coda nothing", 'pip install "./runtime[nothing]"'])
def test_what_is_not_there_is_found(text: str) -> None:
    program, *words = shlex.split(text)
    with pytest.raises(AssertionError):
        CHECKS[program](words, Line(ROOT / "README.md", 1, text))
