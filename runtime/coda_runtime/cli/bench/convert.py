"""`coda bench convert`: results for the tools of a CI."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...bench.formats import FORMATS
from ..base import command as coda_command
from ..base import json_option, print_json
from ..options import force_option
from ..sources import keep_file


@coda_command(name="convert", example="coda bench convert results.json --to github-action-benchmark --out points.json")
@click.argument("results", metavar="RESULTS", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(list(FORMATS)), help="The tool that is to read it.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The JSON file to write.")
@force_option("a file that is there")
@json_option
def convert(results: Path, to: str, out: Path, force: bool, as_json: bool) -> None:
    """Write RESULTS of `coda bench run` in the format of another tool."""
    from ...bench.results import Results
    from ...io.atomic_files import staged_file

    keep_file(out, force=force)
    found = FORMATS[to](Results.load(results))
    with staged_file(out) as beside:
        beside.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        print_json({"out": str(out), "format": to})
        return
    click.echo(f"{out}: written")
