"""`coda tokenize`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import click

from ..bulk.run import SHARD_SIZE, tokenize
from ..bulk.sources import SourceOptions
from .base import command as coda_command
from .base import json_option, print_json, progress
from .options import bundle_argument, load_options

_EXAMPLE = """coda tokenize bundle photos/ --out tokens
coda tokenize bundle "train-{000..146}.tar" --label cls --out tokens
coda tokenize bundle s3://bucket/imagenet/ --out s3://bucket/tokens --address auto"""


@coda_command(name="tokenize", example=_EXAMPLE)
@bundle_argument
@click.argument("source", metavar="SRC")
@click.option("--out", required=True, metavar="DST", help="The folder to write to, local or a URL.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=SHARD_SIZE, show_default=True, help="Images in each Parquet file."
)
@click.option("--label", help="Add a column `label`: folder, a suffix such as cls in tar files, or a Parquet column.")
@click.option("--original-size", is_flag=True, help="Add columns `width` and `height` of the upright picture.")
@click.option(
    "--image-column", default=SourceOptions.image_column, show_default=True, help="Parquet column with encoded images."
)
@click.option("--key-column", help="Parquet column to take `path` from.  [default: file.parquet#row]")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read.")
@click.option("--address", help='An existing Ray cluster, "host:port" or "auto".  [default: Ray on this machine]')
@json_option
@load_options
def command(bundle: str, source: str, out: str, as_json: bool, providers: tuple[str, ...], **settings: Any) -> None:
    """Turn all images of SRC into tokens: Parquet files in DST with columns path and ids.

    SRC is a folder of images, .tar shards or Parquet files, one such file, or a pattern in quotes: "*.tar",
    "train-{000..146}.tar"; a path, or a URL that fsspec knows.

    Stopped or killed, the same command goes on where it was: finished shards stay. Images that cannot be read are
    listed in DST/errors.jsonl.
    """
    with _reporting() as report:
        done = tokenize(bundle, source, out, providers=providers or None, report=report, **settings)
    if done.left_out:
        click.echo(
            f"warning: {done.left_out} files in {source} are not in the plan of {done.out}, since they came after it; "
            "tokenize them to another folder",
            err=True,
        )
    if as_json:
        print_json(asdict(done))
        return
    rate = f", {done.images_per_second:.1f} images/s" if done.images_per_second else ""
    errors = f", {done.errors} that cannot be read: see errors.jsonl" if done.errors else ""
    click.echo(f"{done.images} images in {done.shards} files{rate}{errors}: {done.out}")


@contextmanager
def _reporting() -> Iterator[Callable[[int, int], None]]:
    """A progress bar that begins when the number of images is known, with images per second."""
    with ExitStack() as stack:
        bar: Any = None
        last, first, began = 0, 0, 0.0

        def report(done: int, total: int) -> None:
            nonlocal bar, last, first, began
            if bar is None:
                bar = stack.enter_context(progress("tokenizing", total))
                last = done
                bar.advance(done)
                return
            bar.advance(done - last)
            last = done
            if not first:  # before it, Ray and the engines started
                first, began = done, time.monotonic()
            elif done > first:
                bar.describe(f"tokenizing, {(done - first) / (time.monotonic() - began):.1f} images/s")

        yield report
