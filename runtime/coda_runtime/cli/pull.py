"""`coda pull`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .base import command as coda_command
from .base import json_option, print_json


@coda_command(
    name="pull",
    example="coda pull org/name --out bundle\ncoda pull org/name --revision v1.0 --out bundle",
)
@click.argument("hub_id", metavar="ORG/NAME")
@click.option("--revision", help="A branch, a tag or a commit hash.  [default: main]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to create.")
@json_option
def command(hub_id: str, revision: str | None, out: Path, as_json: bool) -> None:
    """Download the bundle ORG/NAME from the Hugging Face Hub: its own files only, every one of them checked."""
    from ..hub.pull import pull

    done = pull(hub_id, out, revision=revision)
    if as_json:
        print_json(asdict(done) | {"folder": str(done.folder)})
        return
    click.echo(f"{done.bytes / 1e6:.1f} MB from {done.repo}: {done.folder}")
    click.echo(f"to get exactly this again: {done.repo}@{done.commit}")
