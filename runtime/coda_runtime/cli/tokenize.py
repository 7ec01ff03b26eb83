"""`coda tokenize`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from ..backends.base import LoadOptions
from ..bulk.defaults import SHARD_SIZE, TIMEOUT_S
from ..bulk.sources import SourceOptions
from ..io.counts import count, plural
from ..io.omitted import Omitted
from ..io.remote import redacted
from .base import command as coda_command
from .base import json_option, print_json, progress, warn
from .options import bundle_argument, folders, load_options, skip_bad_option

if TYPE_CHECKING:
    from ..images.variants import Variants

_SECONDS_BETWEEN_LINES = 60.0
_EXAMPLE = """coda tokenize bundle photos/ --out tokens
coda tokenize bundle "train-{000..146}.tar" --label cls --out tokens
coda tokenize bundle photos/ --crops ten --zoom 1.05,1.1 --out tokens
coda tokenize bundle s3://bucket/imagenet/ --out s3://bucket/tokens --address auto"""


@coda_command(name="tokenize", example=_EXAMPLE)
@bundle_argument
@click.argument("source", metavar="SRC", shell_complete=folders)
@click.option("--out", required=True, metavar="DST", help="The folder to write to, local or a URL.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=SHARD_SIZE, show_default=True, help="Images in each Parquet file."
)
@click.option("--label", help="Add a column `label`: folder, a suffix such as cls in tar files, or a Parquet column.")
@click.option("--original-size", is_flag=True, help="Add columns `width` and `height` of the upright image.")
@click.option(
    "--crops",
    metavar="center|ten|random:N",
    help="Rows of each image: its middle; four corners and middle, mirrored too; N random crops.",
)
@click.option("--flip", is_flag=True, help="Rows of the mirror images too.")
@click.option("--zoom", metavar="F,...", help="Sizes before cropping.  [default: 1, ten: 1.1, random: 1,1.25]")
@click.option("--crop-seed", type=int, default=0, show_default=True, help="Another one draws other random crops.")
@click.option(
    "--image-column", default=SourceOptions.image_column, show_default=True, help="Parquet column with encoded images."
)
@click.option("--key-column", help="Parquet column to take `path` from.  [default: file.parquet#row]")
@click.option(
    "--image-timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Time to decode one image; one that takes longer cannot be read.",
)
@skip_bad_option(default=True)
@click.option("--strict", is_flag=True, help="The same as --no-skip-bad.")
@click.option("--address", help='An existing Ray cluster, "host:port" or "auto".  [default: Ray on this machine]')
@json_option
@load_options()
def command(
    bundle: str,
    source: str,
    out: str,
    skip_bad: bool,
    strict: bool,
    as_json: bool,
    crops: str | None,
    flip: bool,
    zoom: str | None,
    crop_seed: int,
    options: LoadOptions,
    **settings: Any,
) -> None:
    """Turn all images of SRC into tokens: Parquet files in DST with columns path and ids.

    SRC is a folder of images, .tar shards or Parquet files, one such file, or a pattern in quotes: "*.tar",
    "train-{000..146}.tar"; a path, or a URL that fsspec knows.

    If it is stopped or killed, the same command resumes where it was: finished shards stay. Images that cannot be read
    are listed in DST/errors.jsonl.
    """
    from ..bulk.run import tokenize
    from ..images import IgnoredProfiles

    settings["variants"] = _variants(crops, flip, zoom, crop_seed)
    with _reporting() as report:
        stop = strict or not skip_bad
        done = tokenize(bundle, source, out, report=report, strict=stop, **settings, **options.arguments())
    if done.left_out:
        warn(
            f"{source} has files that are not in the plan of {done.out}, since they were added later "
            f"({done.left_out}); tokenize them to another folder"
        )
    warn(Omitted.from_json(done.omitted).warning(redacted(source)))
    if done.unlabelled:
        warn(
            f"{done.unlabelled} of {count(done.images + done.errors, 'image')} "
            f"{plural(done.unlabelled, 'has', 'have')} no label {settings['label']!r}"
        )
    ignored = IgnoredProfiles()
    ignored.add("", done.profiles_ignored)
    warn(ignored.warning())
    if as_json:
        print_json(asdict(done))
        return
    rate = f", {done.images_per_second:.1f} images/s" if done.images_per_second else ""
    errors = f"; {done.errors} could not be read, see errors.jsonl" if done.errors else ""
    several = f", {count(done.variants, 'variant')} each," if done.variants > 1 else ""
    click.echo(f"{done.out}: {count(done.images, 'image')}{several} in {count(done.shards, 'shard')}{rate}{errors}")


def _variants(crops: str | None, flip: bool, zoom: str | None, seed: int) -> Variants | None:
    """Return what the options ask for, None where none is given. Raises click.UsageError, InputError."""
    from ..images.variants import CENTER, Variants

    if crops is None and not flip and zoom is None:
        return None
    try:
        zooms = tuple(float(item) for item in zoom.split(",")) if zoom else ()
    except ValueError:
        raise click.UsageError(f"--zoom is {zoom!r}; expected numbers such as 1.05,1.1") from None
    return Variants(crops or CENTER, flip, zooms, seed)


@contextmanager
def _reporting() -> Iterator[_Report]:
    """Tell of the progress; and when it is stopped, that nothing is lost."""
    with ExitStack() as stack:
        report = _Report(stack)
        try:
            yield report
        except KeyboardInterrupt:
            click.echo("stopped; run the same command again to resume from the finished shards", err=True)
            raise


class _Report:
    """A progress bar with images per second; where stderr is no terminal, a line now and then."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._bar: Any = None
        self._last = self._first = 0
        self._began = self._last_report = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take the progress: images done, of all, those of earlier runs included."""
        now = time.monotonic()
        if self._bar is None:
            self._bar = self._stack.enter_context(progress("starting Ray and the engines", total))
            self._bar.advance(done)
            if done and not sys.stderr.isatty():
                click.echo(f"resuming: {done} of {count(total, 'image')} done", err=True)
        elif not self._first:  # before it, Ray and the engines started
            self._bar.advance(done - self._last)
            self._bar.describe("tokenizing")
            self._first, self._began = done, now
        elif done > self._first:
            self._bar.advance(done - self._last)
            rate = (done - self._first) / (now - self._began)
            self._bar.describe(f"tokenizing, {rate:.1f} images/s")
            if now - self._last_report >= _SECONDS_BETWEEN_LINES and not sys.stderr.isatty():
                left = timedelta(seconds=round((total - done) / rate))
                click.echo(f"{done} of {count(total, 'image')}, {rate:.1f} images/s, {left} left", err=True)
                self._last_report = now
        self._last = done
