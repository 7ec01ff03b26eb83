"""``coda demo``: the whole pipeline on the sample tokenizer and sample photographs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import click

from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, print_json, progress
from coda_runtime.cli.site import opening_line
from coda_runtime.io.counts import count


def typed_coda() -> str:
    """Return how to call this `coda` from the current folder: "coda" where the shell finds it, else its path."""
    here = Path(sys.executable).with_name("coda")
    if not here.is_file() or shutil.which("coda") == str(here):
        return "coda"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)


@coda_command(name="demo", example="coda demo\ncoda demo --out /tmp/demo --json")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for the tokenizer, the bundle, report.html and the page.",
)
@json_option
def command(out: Path, as_json: bool) -> None:
    """Run the sample tokenizer end to end: export it, run it on photographs without PyTorch, write a report.

    Writes a tokenizer folder, a bundle, report.html, which shows the images, parity with PyTorch and timings, and a
    page that runs the bundle in a browser.
    """
    begun = time.perf_counter()
    if out.exists() and not out.is_dir():
        # Before PyTorch is imported, which takes seconds.
        from coda_runtime.errors import OutputError

        raise OutputError(f"{out} is a file: name a folder with --out, or remove it first")
    quiet = as_json or sys.stderr.isatty()
    if not quiet:
        click.echo("starting PyTorch")
    with progress("starting PyTorch", total=None):
        from coda_deploy.demo import run_demo
        from coda_deploy.demo.run import STEPS
        from coda_deploy.evaluate.devices import threads_of_quota
    with progress("coda demo", total=STEPS) as bar:

        def step(text: str) -> None:
            bar.describe(text)
            bar.advance()
            if not quiet:
                click.echo(text)

        coda = typed_coda()
        with threads_of_quota():
            results = run_demo(out, coda=coda, progress=step)
    metrics = results.to_json()
    if as_json:
        print_json({"out": os.fspath(out), **metrics, "seconds": time.perf_counter() - begun})
        return
    spec = results.manifest.spec
    click.echo(
        f"{count(len(results.names), 'photograph')} -> {count(spec.num_tokens, 'token')} of "
        f"{count(results.bits_per_token, 'bit')} each ({count(results.bytes_per_image, 'byte')}) -> back at "
        f"{metrics['psnr']:.1f} dB"
    )
    click.echo(f"done in {time.perf_counter() - begun:.0f} s")
    click.echo(f"report: {out / 'report.html'}")
    click.echo(f"page:   {opening_line(out / 'page')}")
    click.echo(f"next:   {coda} encode {out / 'bundle'} photo.jpg --out tokens.npz")
