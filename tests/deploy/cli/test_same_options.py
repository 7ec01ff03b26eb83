"""Options that mean one thing in every command that has a use for them."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from coda_runtime.cli.app import cli
from coda_runtime.format.color import COLORS


def commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
        else:
            yield " ".join((*names, name)), command


ALL = dict(commands(cli))
# They run until they are stopped, and log instead.
REPORTS_NOTHING = {"serve"}
# Whether an image that cannot be read is left out unless it is said; commands that take no images are not here.
SKIPS = {"encode": False, "reconstruct": False, "eval": True, "tokenize": True, "train": True, "train-vae": True}


@pytest.mark.parametrize("name", sorted(ALL.keys() - REPORTS_NOTHING))
def test_every_command_reports_as_json(name: str) -> None:
    assert "--json" in [option for param in ALL[name].params for option in param.opts]


def test_bad_images_are_one_option() -> None:
    found = {
        name: param.default
        for name, command in ALL.items()
        for param in command.params
        if "--skip-bad" in param.opts and "--no-skip-bad" in param.secondary_opts
    }
    assert found == SKIPS


def test_what_colours_mean_is_one_option_of_every_command_that_reads_images() -> None:
    found = {
        name: list(param.type.choices)
        for name, command in ALL.items()
        for param in command.params
        if "--color" in param.opts and isinstance(param.type, click.Choice)
    }
    assert found == {name: list(COLORS) for name in [*SKIPS, "bench run", "serve"]}
