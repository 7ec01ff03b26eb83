"""One style of help: what a command does in a sentence, its options in sentences, an example that it can read."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from coda_runtime.cli import app
from tests.deploy.cli.test_same_options import ALL
from tests.test_docstrings import VERBS, first_word

GROUPS = {"": app.cli, "bench": app.cli.get_command(click.Context(app.cli), "bench")}


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_first_line_says_what_it_does(name: str) -> None:
    first = (ALL[name].help or "").split("\n\n")[0]
    assert first_word(first) in VERBS, first
    assert "\n" not in first, first
    assert first.endswith("."), first


@pytest.mark.parametrize("name", sorted(ALL))
def test_options_are_told_in_sentences(name: str) -> None:
    for option in ALL[name].params:
        if isinstance(option, click.Option):
            text = re.sub(r"  \[default: .*\]$", "", option.help or "")
            assert re.fullmatch(r"[A-Z].*[^.]\.", text, re.DOTALL), f"{option.opts[-1]}: {text!r}"
            assert "\n" not in text, option.opts


@pytest.mark.parametrize("name", sorted(app._OWN.keys() | app._DEPLOY.keys()))
def test_the_list_has_a_line_for_each(name: str) -> None:
    text = {**app._OWN, **app._DEPLOY}[name]
    assert re.fullmatch(r"[A-Z][^.]*\.", text)
    assert first_word(text) in VERBS, text
    assert len(text) <= 60, text


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_examples_are_of_this_command(name: str) -> None:
    command = ALL[name]
    head, *lines = (command.epilog or "").removeprefix("\b\n").splitlines()
    assert head == "Example:"
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        start = words.index("coda") + 1
        given = words[start:]
        assert given[: len(name.split())] == name.split() or "&&" in given, line
        assert re.match(r"  \S", line), line


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_groups_have_examples_too(name: str) -> None:
    group = GROUPS[name]
    assert group is not None
    assert (group.epilog or "").startswith(f"\b\nExample:\n  coda {name}".rstrip())
