"""`coda site`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from ..io.counts import count
from .base import command as coda_command
from .base import json_option, print_json
from .options import bundle_argument, force_option


@coda_command(
    name="site",
    example="coda site bundle --out page\ncoda site bundle --out page --precision int8 --vendor node_modules",
)
@bundle_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write the page to.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="What the page runs, the bundle's default if not given; repeat it, and the page offers a choice.",
)
@click.option(
    "--vendor",
    metavar="NODE_MODULES",
    type=click.Path(path_type=Path),
    help="Carry the engine's files from this folder of npm, instead of a CDN's.",
)
@force_option("a page that is in --out")
@json_option
def command(
    bundle: str, out: Path, precisions: tuple[str, ...], vendor: Path | None, force: bool, as_json: bool
) -> None:
    """Write a static page that runs BUNDLE in the browser.

    Images stay in the browser. Any file server will do; threads and the camera need https, or localhost.
    """
    from ..format.bundle import Bundle
    from ..hub_source import find_bundle
    from ..site import write_site

    site = write_site(Bundle.open(find_bundle(bundle)), out, precisions=precisions, vendor=vendor, force=force)
    if as_json:
        print_json(
            {
                "out": str(out),
                "precisions": list(site.precisions),
                "num_files": len(site.files),
                "bytes": sum(site.files.values()),
                "download_bytes": site.download,
            }
        )
        return
    click.echo(f"{count(len(site.files), 'file')}, {site.download / 1e6:.1f} MB to load beside the engine: {out}")
    click.echo(f"open:   {opening_line(out)}")


def opening_line(folder: Path) -> str:
    """Return the command that serves a page's folder to this machine's browser."""
    python = "python" if shutil.which("python") else sys.executable
    return f"{python} -m http.server --bind 127.0.0.1 --directory {folder} 8000   # http://127.0.0.1:8000"
