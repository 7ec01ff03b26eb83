"""`coda bench report`: results as a page."""

from __future__ import annotations

from pathlib import Path

import click

from ..base import command as coda_command
from ..base import json_option, print_json
from ..options import force_option
from ..sources import keep_file


@coda_command(name="report", example="coda bench report cpu.json gpu.json --out report.html")
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The page to write.")
@force_option("a page that is there")
@json_option
def report(results: tuple[Path, ...], out: Path, force: bool, as_json: bool) -> None:
    """Show RESULTS of `coda bench run`, and gpu.json of `python -m benchmarks.gpu`, as one page with charts."""
    from ...bench.reading import read_results
    from ...bench.report import write_report

    keep_file(out, force=force)
    write_report([found for path in results for found in read_results(path)], out)
    if as_json:
        print_json({"out": str(out), "results": [str(path) for path in results]})
        return
    click.echo(f"{out}: written")
