"""`coda bench`: run, report, compare."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..backends.base import LoadOptions
from ..bench.plan import AXES, Plan
from ..errors import InputError, OutputError
from ..format.bundle import Bundle
from ..hub_source import find_bundle
from .base import command as coda_command
from .base import debug_option, json_option, one_line_errors, print_json, progress, table, warn
from .options import bundle_argument, force_option, load_option_help, load_options
from .sources import collect, keep_file, keep_sources

if TYPE_CHECKING:
    from ..bench.compare import Metric
    from ..bench.results import Cell, Results

_EXAMPLE = """coda bench run bundle --batch 1,8 --out results.json
coda bench report results.json --out report.html
coda bench compare before.json after.json"""
_RUN_EXAMPLE = """coda bench run bundle --images photos --batch 1,4,8 --out results.json
coda bench run bundle --backend onnxruntime,tensorrt --precision fp32,bf16 --device cuda:0,cuda:1
coda bench run bundle --scenario server --latency-bound 50 --batch 8"""
_COLUMNS = ("cell", "operation", "scenario", "batch", "p50", "p99", "images/s", "memory", "GPU memory")
_SEVERAL = "several separated by commas"

T = TypeVar("T")


class _Group(click.Group):
    """Errors of the commands in one line, also where they come from finding one."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        with one_line_errors(ctx):
            return super().invoke(ctx)


command = _Group(
    "bench",
    help="Measure a bundle's speed on this machine, show it, compare two measurements.",
    params=[debug_option()],
    epilog="\b\nExample:\n" + "\n".join(f"  {line}" for line in _EXAMPLE.splitlines()),
)


@coda_command(name="run", example=_RUN_EXAMPLE)
@bundle_argument
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Images to measure with; by default the bundle's samples.",
)
@click.option("--operation", default="encode,decode", show_default=True, help="encode, quantise, decode, round-trip.")
@click.option("--scenario", default="single-stream", show_default=True, help="single-stream, offline, server.")
@click.option("--batch", default="1,8", show_default=True, help="Images per call; for server, the maximum.")
@click.option("--backend", default="auto", show_default=True, help=load_option_help("backend", _SEVERAL))
@click.option("--precision", default="auto", show_default=True, help=load_option_help("precision", _SEVERAL))
@click.option("--device", default="auto", show_default=True, help=load_option_help("device", _SEVERAL))
@click.option("--threads", help=load_option_help("threads", f"{_SEVERAL}, the engine library's choice by default"))
@load_options(but=AXES)
@click.option(
    "--seconds", type=float, default=3.0, show_default=True, help="Minimum time of each measurement, in seconds."
)
@click.option("--latency-bound", type=float, metavar="MS", help="server: the bound on the 99th percentile.")
@click.option("--repeat-process", type=click.IntRange(1, 100), default=1, show_default=True, help="Processes per cell.")
@click.option(
    "--timeout", type=float, default=600.0, show_default=True, help="Maximum seconds for one call, or for loading."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here, as JSON.")
@force_option("results that are there")
@json_option
def run(
    bundle: str,
    images: Path | None,
    operation: str,
    scenario: str,
    batch: str,
    backend: str,
    precision: str,
    device: str,
    threads: str | None,
    options: LoadOptions,
    seconds: float,
    latency_bound: float | None,
    repeat_process: int,
    timeout: float,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure BUNDLE: every backend, precision, device and number of threads, each in a process of its own.

    Options that take several values take them separated by commas. What cannot run here is reported and skipped.
    """
    from ..bench.image_set import take_images
    from ..bench.run import Hooks, run_bench, steps

    plan = Plan(
        backends=_several("--backend", backend, str),
        precisions=_several("--precision", precision, str),
        devices=_several("--device", device, str),
        threads=(None,) if threads is None else _several("--threads", threads, int),
        options=options,
        operations=_several("--operation", operation, str),
        scenarios=_several("--scenario", scenario, str),
        batches=_several("--batch", batch, int),
        seconds=seconds,
        latency_bound_s=None if latency_bound is None else latency_bound / 1e3,
        repeat_process=repeat_process,
    )
    if not 0 < timeout <= 86_400:
        raise InputError(f"--timeout is {timeout:g}; expected seconds, over 0 and up to 86400")
    opened = Bundle.open(find_bundle(bundle))
    sources = collect([images]) if images is not None else []
    if out is not None:
        keep_sources(sources, [out])
        keep_file(out, force=force)
        _check_writable(out)
    image_set = take_images(opened, [source.path for source in sources], str(images or ""), options.color)
    warn(image_set.ignored.warning())
    typed = ["coda", *sys.argv[1:]]
    with progress("measuring", total=steps(plan, opened)) as bar:
        hooks = Hooks(describe=bar.describe, advance=bar.advance)
        results = run_bench(opened, image_set, plan, typed, silence_s=timeout, hooks=hooks)
    if out is not None:
        results.save(out)
    if as_json:
        print_json(results.data)
        return
    table(list(_rows(results)), columns=_COLUMNS)
    for cell in results.data["cells"]:
        if cell["problem"] is not None:
            click.echo(f"not run: {_name(cell)}: {cell['problem']}", err=True)
    for warning in results.data["noise"]["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if out is not None:
        click.echo(f"{out}: written")


@coda_command(name="report", example="coda bench report cpu.json gpu.json --out report.html")
@click.argument("results", nargs=-1, required=True, metavar="RESULTS...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The page to write.")
@force_option("a page that is there")
@json_option
def report(results: tuple[Path, ...], out: Path, force: bool, as_json: bool) -> None:
    """Show RESULTS, files that `coda bench run` wrote, as one page with charts."""
    from ..bench.report import write_report
    from ..bench.results import Results

    keep_file(out, force=force)
    write_report([Results.load(path) for path in results], out)
    if as_json:
        print_json({"out": str(out), "results": [str(path) for path in results]})
        return
    click.echo(f"{out}: written")


@coda_command(name="compare", example="coda bench compare before.json after.json --threshold 3%")
@click.argument("before", metavar="A", type=click.Path(path_type=Path))
@click.argument("after", metavar="B", type=click.Path(path_type=Path))
@click.option("--threshold", default="5%", show_default=True, help="How much slower is not yet a regression.")
@json_option
@click.pass_context
def compare(ctx: click.Context, before: Path, after: Path, threshold: str, as_json: bool) -> None:
    """Compare two results of `coda bench run`, the older first; exit 1 if B is slower past the threshold."""
    from ..bench.compare import compare as compare_results
    from ..bench.results import Results

    share = _share(threshold)
    found = compare_results(Results.load(before), Results.load(after), share)
    if as_json:
        print_json(found.to_json())
    else:
        rows = [
            (row.name, row.verdict, *_change(row.metrics), "regression" if row.regression else row.reason or "")
            for row in found.rows
        ]
        table(rows, columns=("measurement", "verdict", "B / A", "95 %", ""))
        for text in (*found.differences, *found.warnings):
            click.echo(f"note: {text}", err=True)
        past = len(found.regressions)
        click.echo(f"{past} of {len(found.rows)} measurements became worse by more than {share:.3g}")
    if found.regressions:
        ctx.exit(1)


for _command in (run, report, compare):
    command.add_command(_command)


def _several(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Return the values between commas. Raises InputError for none, and for anything but a number where one is due."""
    try:
        values = tuple(kind(value.strip()) for value in text.split(",") if value.strip())
    except ValueError:
        values = ()
    if not values:
        example = "whole numbers, such as 1,4,8" if kind is int else "one name, or several, separated by commas"
        raise InputError(f"{option} is {text!r}; expected {example}")
    return values


def _share(text: str) -> float:
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        return float(number) / (100 if percent else 1)
    except ValueError:
        raise InputError(f"--threshold is {text!r}; expected a share, such as 5% or 0.05") from None


def _check_writable(out: Path) -> None:
    """Raise OutputError before minutes of measuring rather than after them."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{out} cannot be written; choose another place for --out")


def _rows(results: Results) -> Iterator[Sequence[object]]:
    for cell in results.data["cells"]:
        for of in cell["measurements"]:
            latency = of["latency_s"]
            yield (
                _name(cell),
                of["operation"],
                of["scenario"],
                of["batch"],
                _milliseconds(latency["p50"]),
                _milliseconds(latency["p99"]),
                f"{of['throughput']:.1f}",
                _mebibytes(of["peak_host_bytes"]),
                _mebibytes(of["peak_device_bytes"]),
            )


def _name(cell: Cell) -> str:
    """Name a cell, as in "auto, fp32, cpu (onnxruntime)": what was asked for, and what it became where left open."""
    from ..bench.differences import cell_name

    ran = ", ".join(dict.fromkeys(artifact["backend"] for artifact in cell["artifacts"]))
    return f"{cell_name(cell)} ({ran})" if cell["backend"] == "auto" and ran else cell_name(cell)


def _change(metrics: Sequence[Metric]) -> tuple[str, str]:
    if not metrics:
        return "", ""
    ci95 = metrics[0].ci95
    return f"{metrics[0].ratio:.3f}", "" if ci95 is None else f"{ci95[0]:.3f} to {ci95[1]:.3f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds * 1e3:.0f} ms"


def _mebibytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**20:.0f} MiB"
