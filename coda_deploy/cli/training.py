"""What `coda train` and `coda train-vae` share: options, what has to be given, and how a run ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from coda_runtime.cli.base import print_json
from coda_runtime.cli.options import folders, load_option_help, skip_bad_option
from coda_runtime.format.color import COLORS

F = TypeVar("F", bound=Callable[..., Any])
Metrics = dict[str, float]


def training_options(result: str) -> Callable[[F], F]:
    """Decorate with --data, --out (which is to hold a ``result``), --resume, --set and --show-config."""
    options = (
        click.option(
            "--data", shell_complete=folders, help="Image folder, WebDataset shards, hf:owner/name[@split], or .npy."
        ),
        click.option("--out", type=click.Path(path_type=Path), help=f"{result} to write."),
        click.option("--resume", is_flag=True, help="Resume the run in --out, or start one if there is none."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change one setting; repeatable. --show-config lists them all.",
        ),
        click.option(
            "--color",
            type=click.Choice(COLORS),
            help=f"{load_option_help('color', 'data.color of the configuration')}",
        ),
        skip_bad_option(default=True),
        click.option("--show-config", is_flag=True, help="Print every setting with its value, and exit."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def settings(overrides: tuple[str, ...], color: str | None) -> list[str]:
    """Return what --set and --color change of the configuration."""
    return [*overrides, *([] if color is None else [f"data.color={color}"])]


def given(data: str | None, out: Path | None) -> tuple[str, Path]:
    """Return both. Raises ``UsageError`` for one that is missing, which --show-config has no need of."""
    if data is None or out is None:
        raise click.UsageError(f"Missing option '{'--data' if data is None else '--out'}'.")
    return data, out


def carry_out(
    train: Callable[[], Metrics], out: Path, *, as_json: bool, summary: Callable[[Metrics], str], following: str
) -> None:
    """Run to the end or to a signal, and report it in the first process."""
    from coda_deploy.errors import StoppedError
    from coda_deploy.evaluate.devices import threads_of_quota

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun has started
    try:
        with threads_of_quota():
            metrics = train()
    except StoppedError as stopped:
        if first:
            click.echo(f"stopped: {stopped}", err=True)
        click.get_current_context().exit(128 + stopped.signal)
    if not first:
        return
    if as_json:
        print_json({"out": str(out), **metrics})
        return
    if "psnr" in metrics:  # none where somebody has removed the log
        click.echo(f"{out}: {summary(metrics)}")
    click.echo(following)
