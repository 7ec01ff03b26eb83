"""`coda push`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .base import command as coda_command
from .base import json_option, print_json
from .options import folders


@coda_command(
    name="push",
    example='coda push bundle org/name\ncoda push bundle org/name --revision bf16 --private --message "bf16 decoder"',
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path), shell_complete=folders)
@click.argument("hub_id", metavar="ORG/NAME")
@click.option("--revision", help="The branch; created from main if it does not exist.  [default: main]")
@click.option("--private", is_flag=True, help="Make the repository private, if it has to be created.")
@click.option("--message", default="", help="The commit's message.")
@click.option("--card", is_flag=True, help="Write the model card over a README.md that somebody else wrote.")
@json_option
def command(
    bundle: Path, hub_id: str, revision: str | None, private: bool, message: str, card: bool, as_json: bool
) -> None:
    """Upload the folder BUNDLE to ORG/NAME on the Hugging Face Hub, with a model card, in one commit.

    Every file is checked first, and only the bundle's own files are uploaded. Log in with `hf auth login`, or set
    HF_TOKEN.
    """
    from ..hub.push import push

    done = push(bundle, hub_id, revision=revision, private=private, message=message, overwrite_card=card)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(f"{done.bytes / 1e6:.1f} MB: {done.url}")
    if not done.card:
        click.echo("its README.md was written by somebody else and stays; --card writes the model card over it")
    click.echo(f"to load exactly this: {done.repo}@{done.commit}")
