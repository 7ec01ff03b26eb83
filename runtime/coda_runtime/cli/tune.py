"""`coda tune`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backends.base import LoadOptions
from ..errors import InputError
from .base import command as coda_command
from .base import json_option, print_json, progress, table, warn
from .bench.options import check_timeout, several
from .options import bundle_argument, load_option_help, load_options
from .sources import collect

if TYPE_CHECKING:
    from ..format.bundle import Bundle
    from ..tune.aims import Aim, Row
    from ..tune.run import Outcome

_EXAMPLE = """coda tune bundle
coda tune bundle --throughput --batch 1,8,32
coda tune bundle --latency 50 --max-psnr-drop 0.1"""
_COLUMNS = ("", "operation", "precision", "backend", "threads", "batch", "median", "images/s", "processes")
_SEVERAL = "several separated by commas; by default all that may run here"
_INCONCLUSIVE = 3
"""The exit code where other work disturbed what was measured, as that of `coda bench compare`."""
_OWN = ("backend", "precision", "threads", "providers", "reproducible", "nvtx", "ignore_tuning", "color")


@coda_command(name="tune", example=_EXAMPLE)
@bundle_argument
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Images to measure with; by default the bundle's samples.",
)
@click.option("--latency", type=float, metavar="MS", help="The most images per second with a median call under MS.")
@click.option("--throughput", is_flag=True, help="The most images per second; by default the lowest latency.")
@click.option(
    "--max-psnr-drop",
    type=float,
    metavar="DB",
    help="Leave out precisions in which images lose more, as the export measured it.",
)
@click.option("--batch", help="Images per call, several separated by commas; 1, or 1,8 for images per second.")
@click.option("--backend", help=load_option_help("backend", _SEVERAL))
@click.option("--precision", help=load_option_help("precision", _SEVERAL))
@click.option("--threads", help=load_option_help("threads", "numbers and auto, separated by commas"))
@load_options(but=_OWN)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 60, min_open=True),
    default=0.3,
    show_default=True,
    help="Minimum time of each measurement in each process, in seconds.",
)
@click.option(
    "--repeat-process",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Processes for each of the best few settings.",
)
@click.option(
    "--timeout", type=float, default=600.0, show_default=True, help="Maximum seconds for one call, or for loading."
)
@click.option("--busy", is_flag=True, help="Other work always goes on here: record what was measured beside it.")
@click.option("--dry-run", is_flag=True, help="Measure and print, and leave the record as it is.")
@click.option("--forget", is_flag=True, help="Measure nothing, and remove the record.")
@json_option
def command(
    bundle: str,
    options: LoadOptions,
    dry_run: bool,
    forget: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure what runs BUNDLE fastest on this machine, and record it for `load` and every command.

    Each backend, precision and number of threads that may run here is timed on real images, encode and decode, in
    processes of its own; the best few again, in turn. What backend "auto" and threads go by from then on stands in the
    user's cache. The precision stays the bundle's own, or the one that is asked for.
    """
    from ..bench.image_set import take_images
    from ..bench.run import Hooks
    from ..format.bundle import Bundle
    from ..hub_source import find_bundle
    from ..tune.aims import Aim
    from ..tune.run import record_of, tune
    from ..tune.settings import Wanted
    from ..tuned import device_of, save
    from ..tuned import forget as forget_record

    opened = Bundle.open(find_bundle(bundle))
    if forget:
        path = forget_record(opened, device_of(options))
        click.echo("nothing is recorded" if path is None else f"{path}: removed")
        return
    check_timeout(asked["timeout"])
    latency, throughput = asked["latency"], asked["throughput"]
    if latency is not None and throughput:
        raise InputError("--latency and --throughput exclude each other; name one of them")
    aim = Aim(throughput, None if latency is None else latency / 1e3)
    wanted = Wanted(
        () if asked["backend"] is None else several("--backend", asked["backend"], str),
        () if asked["precision"] is None else several("--precision", asked["precision"], str),
        () if asked["threads"] is None else several("--threads", asked["threads"], _count),
        asked["max_psnr_drop"],
    )
    images = asked["images"]
    image_set = take_images(
        opened, [source.path for source in (collect([images]) if images is not None else [])], str(images or "")
    )
    with progress("measuring", total=None) as bar:
        outcome = tune(
            opened,
            image_set,
            options,
            wanted,
            aim,
            batches=() if asked["batch"] is None else several("--batch", asked["batch"], int),
            seconds=asked["seconds"],
            rounds=asked["repeat_process"],
            busy=asked["busy"],
            silence_s=asked["timeout"],
            hooks=Hooks(describe=bar.describe, advance=bar.advance),
        )
    path = None
    if outcome.tuned and not dry_run:
        path = save(record_of(outcome, opened, options, aim), opened)
    if as_json:
        from ..tune.words import to_json

        print_json({"record": None if path is None else str(path), **to_json(outcome, opened, options, aim)})
    else:
        _print(outcome, opened, aim, path)
    for warning in outcome.warnings:
        warn(warning)
    default = opened.manifest.default_precision
    wanted_precision = default if not wanted.precisions or default in wanted.precisions else wanted.precisions[0]
    if wanted_precision in outcome.tuned:
        return
    if (lacking := outcome.lacking(wanted_precision, aim)) is not None:
        raise InputError(f"{lacking}; nothing is recorded for it: allow more, or leave --latency out")
    if any(row.disturbed for row in outcome.best.values()):
        warn("nothing is recorded for it; run it again when the machine is quiet, or if it never is, with --busy")
        click.get_current_context().exit(_INCONCLUSIVE)


def _count(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _print(outcome: Outcome, bundle: Bundle, aim: Aim, path: Path | None) -> None:
    from ..tune.words import advice, skipped

    table(list(_rows(outcome, aim)), columns=_COLUMNS)
    for line in skipped(outcome):
        click.echo(f"not run: {line}", err=True)
    click.echo()
    for line in advice(outcome, bundle):
        click.echo(line)
    if path is not None:
        click.echo(f"{path}: written; backend auto and threads follow it on this machine")


def _rows(outcome: Outcome, aim: Aim) -> Iterator[Sequence[object]]:
    from ..report.words import duration, rate
    from ..tuned import TUNED

    best = set(outcome.best.values())
    for operation in TUNED:
        for precision in dict.fromkeys(setting.precision for setting in outcome.settings):
            for row in aim.ranked(outcome.of(precision, operation)):
                yield _row(outcome, row, row in best, duration(row.latency_s), rate(row.images_per_s))


def _row(outcome: Outcome, row: Row, is_best: bool, latency: str, images: str) -> Sequence[object]:
    setting = outcome.settings[row.setting]
    threads = "auto" if setting.threads is None else setting.threads
    processes = f"{row.processes}, disturbed" if row.disturbed else row.processes
    mark = ", ".join(word for word, holds in (("best", is_best), ("default", setting.unasked)) if holds)
    return mark, row.operation, setting.precision, setting.backend, threads, row.batch, latency, images, processes
