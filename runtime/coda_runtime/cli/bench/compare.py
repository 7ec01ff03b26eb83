"""`coda bench compare` and `coda bench ab`: what became slower, and what to conclude."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...bench.plan import AXES
from ...bench.statistics import PAIRS
from ...errors import InputError
from ...io.counts import count
from ..base import command as coda_command
from ..base import json_option, print_json, printable, progress, table
from ..options import folders
from ..sources import collect
from .options import axes, plan_of, share, work_options

if TYPE_CHECKING:
    from ...bench.compare import Comparison, Row
    from ...bench.verdicts import Metric

F = TypeVar("F", bound=Callable[..., Any])

_COMPARE_EXAMPLE = """coda bench compare before.json after.json --threshold 3%
coda bench compare results.json --by precision"""
_AB_EXAMPLE = """coda bench ab old-bundle new-bundle
coda bench ab bundle bundle --set-a threads=1 --set-b threads=2
coda bench ab bundle bundle --python-a /opt/coda-0.1/bin/python"""
_VERDICT = (
    click.option("--threshold", default="5%", show_default=True, help="How much slower is not yet a regression."),
    click.option("--allow-missing", is_flag=True, help="Exit 0 although B lacks measurements that A has."),
    click.option("--allow-inconclusive", is_flag=True, help="Exit 0 although the numbers are not enough to conclude."),
    json_option,
    click.pass_context,
)


def _verdict_options(function: F) -> F:
    for option in reversed(_VERDICT):
        function = option(function)
    return function


@coda_command(name="compare", example=_COMPARE_EXAMPLE)
@click.argument("before", metavar="A", type=click.Path(path_type=Path))
@click.argument("after", metavar="[B]", type=click.Path(path_type=Path), required=False)
@click.option("--by", type=click.Choice(AXES), help="Compare the cells of A that differ in this alone, in place of B.")
@_verdict_options
def compare(
    ctx: click.Context, before: Path, after: Path | None, by: str | None, threshold: str, as_json: bool, **allowed: bool
) -> None:
    """Compare two results, the older first, or the cells of one with --by.

    A and B are files of `coda bench run` or gpu.json of `python -m benchmarks.gpu run`.

    Exits with 1 for a regression, 3 where nothing can be concluded, 4 where nothing was compared or B lacks what A has.
    """
    from ...bench.reading import compare_cells_of_file, compare_files, read_results

    if (after is None) == (by is None):
        raise click.UsageError("compare A with B, or the cells of A alone, as in --by precision")
    limit, first = share(threshold), read_results(before)
    if after is not None:
        found = compare_files(first, read_results(after), limit)
    else:
        found = compare_cells_of_file(first, str(by), limit)
    _conclude(ctx, found, as_json=as_json, **allowed)


@coda_command(name="ab", example=_AB_EXAMPLE)
@click.argument("before", metavar="A", shell_complete=folders)
@click.argument("after", metavar="B", shell_complete=folders)
@click.option("--set-a", multiple=True, metavar="KEY=VALUE", help=f"How to load A: {', '.join(AXES)}. Repeatable.")
@click.option("--set-b", multiple=True, metavar="KEY=VALUE", help="How to load B. Repeatable.")
@click.option("--python-a", type=click.Path(path_type=Path), help="The Python whose coda_runtime runs A.")
@click.option("--python-b", type=click.Path(path_type=Path), help="The Python whose coda_runtime runs B.")
@work_options
@click.option(
    "--pairs", type=click.IntRange(1, 100), default=PAIRS, show_default=True, help="Processes of each, in turn."
)
@_verdict_options
def ab(
    ctx: click.Context,
    before: str,
    after: str,
    set_a: tuple[str, ...],
    set_b: tuple[str, ...],
    python_a: Path | None,
    python_b: Path | None,
    pairs: int,
    threshold: str,
    as_json: bool,
    allow_missing: bool,
    allow_inconclusive: bool,
    **work: Any,
) -> None:
    """Measure bundles A and B in turn, process by process, and compare the pairs.

    A and B may be one bundle, loaded in two ways or by two versions. What slows the machine down hits both of a pair.
    Exits as compare does.
    """
    from ...bench.ab import Side, run_ab
    from ...bench.image_set import take_images
    from ...bench.run import Hooks
    from ...format.bundle import Bundle
    from ...hub_source import find_bundle

    limit = share(threshold)
    a, b = (
        Side(
            " ".join([name, *settings, *([str(python)] if python else [])]),
            Bundle.open(find_bundle(name)),
            plan_of(work, **axes(f"--set-{letter}", settings)),
            _worker(f"--python-{letter}", python),
        )
        for letter, name, settings, python in (("a", before, set_a, python_a), ("b", after, set_b, python_b))
    )
    images = work["images"]
    sources = collect([images]) if images is not None else []
    image_set = take_images(a.bundle, [source.path for source in sources], str(images or ""))
    with progress("measuring", total=2 * pairs * len(a.plan.measurements())) as bar:
        hooks = Hooks(describe=bar.describe, advance=bar.advance)
        typed, silence = ["coda", *sys.argv[1:]], work["timeout"]
        found = run_ab(a, b, image_set, typed, pairs=pairs, threshold=limit, silence_s=silence, hooks=hooks)
    allowed = {"allow_missing": allow_missing, "allow_inconclusive": allow_inconclusive}
    _conclude(ctx, found, as_json=as_json, **allowed)


def _worker(option: str, python: Path | None) -> list[str] | None:
    from ...bench.process import worker_command

    if python is not None and not python.exists():
        raise InputError(f"{option} is {python}, which is not there; expected the python of an environment")
    return None if python is None else worker_command(str(python))


def _conclude(
    ctx: click.Context, found: Comparison, *, as_json: bool, allow_missing: bool, allow_inconclusive: bool
) -> None:
    """Print what was found, and exit with what it comes to."""
    from ...bench.compare import EXIT_CODES

    outcome = found.outcome(allow_missing=allow_missing, allow_inconclusive=allow_inconclusive)
    if as_json:
        print_json({**found.to_json(), "outcome": outcome})
    else:
        click.echo(f"A: {printable(found.a)}\nB: {printable(found.b)}")
        rows = [line for row in found.rows for line in _lines(row)]
        table(rows, columns=("measurement", "of", "A", "B", "B / A", "99 %", "verdict", ""))
        for text in (*found.differences, *found.warnings):
            click.echo(f"note: {text}", err=True)
        compared = sum(row.compared for row in found.rows)
        past = len(found.regressions)
        unsure = sum(row.verdict == "inconclusive" for row in found.rows)
        click.echo(
            f"{outcome}: {compared} of {count(len(found.rows), 'measurement')} compared, {past} past "
            f"{found.threshold:.3g}" + (f", {unsure} inconclusive" if unsure else "")
        )
    if outcome != "ok":
        ctx.exit(EXIT_CODES[outcome])


def _lines(row: Row) -> list[tuple[str, ...]]:
    """Return the lines of a row: one for each of its metrics, or the reason why there are none."""
    if not row.metrics:
        return [(row.name, "", "", "", "", "", row.verdict, row.reason or "")]
    return [
        (
            "" if index else row.name,
            metric.name,
            _value(metric, metric.a),
            _value(metric, metric.b),
            f"{metric.ratio:.3f}",
            "" if metric.ci99 is None else f"{metric.ci99[0]:.3f} to {metric.ci99[1]:.3f}",
            metric.verdict,
            "regression" if metric.regression else metric.reason or "",
        )
        for index, metric in enumerate(row.metrics)
    ]


def _value(metric: Metric, value: float) -> str:
    from ...report.words import duration, rate, size

    if metric.name.endswith("_bytes"):
        return size(value)
    return f"{rate(value)}/s" if metric.name.startswith(("throughput", "max_rate")) else duration(value)
