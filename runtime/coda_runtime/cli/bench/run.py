"""`coda bench run`: measure a bundle."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...backends.base import LoadOptions
from ...bench.plan import AXES, Plan
from ...errors import OutputError
from ..base import command as coda_command
from ..base import json_option, print_json, progress, table, warn
from ..options import bundle_argument, force_option, load_option_help, load_options
from ..sources import collect, keep_file, keep_sources
from .options import plan_of, several, work_options

if TYPE_CHECKING:
    from ...bench.results import Cell, Results

_EXAMPLE = """coda bench run bundle --images photos --batch 1,4,8 --out results.json
coda bench run bundle --backend onnxruntime,tensorrt --precision fp32,bf16 --device cuda:0,cuda:1
coda bench run bundle --scenario server --latency-bound 50 --batch 8"""
_COLUMNS = ("cell", "operation", "scenario", "batch", "p50", "p99 (calls)", "images/s", "memory", "GPU memory")
_TRANSFERS = ("host to device", "compute", "device to host")
_SEVERAL = "several separated by commas"


@coda_command(name="run", example=_EXAMPLE)
@bundle_argument
@work_options
@click.option("--backend", default="auto", show_default=True, help=load_option_help("backend", _SEVERAL))
@click.option("--precision", default="auto", show_default=True, help=load_option_help("precision", _SEVERAL))
@click.option("--device", default="auto", show_default=True, help=load_option_help("device", _SEVERAL))
@click.option("--threads", help=load_option_help("threads", f"{_SEVERAL}, the engine library's choice by default"))
@load_options(but=AXES)
@click.option(
    "--repeat-process",
    type=click.IntRange(1, 100),
    default=Plan.repeat_process,
    show_default=True,
    help="Processes for each cell; compare concludes nothing from fewer.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here, as JSON.")
@force_option("results that are there")
@json_option
def run(
    bundle: str,
    backend: str,
    precision: str,
    device: str,
    threads: str | None,
    options: LoadOptions,
    repeat_process: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    **work: Any,
) -> None:
    """Measure BUNDLE: every backend, precision, device and number of threads, each in processes of its own.

    Options that take several values take them separated by commas. What cannot run here is reported and skipped.
    """
    from ...bench.image_set import take_images
    from ...bench.run import Hooks, run_bench, steps
    from ...format.bundle import Bundle
    from ...hub_source import find_bundle

    plan = plan_of(
        work,
        backends=several("--backend", backend, str),
        precisions=several("--precision", precision, str),
        devices=several("--device", device, str),
        threads=(None,) if threads is None else several("--threads", threads, int),
        options=options,
        repeat_process=repeat_process,
    )
    opened = Bundle.open(find_bundle(bundle))
    images = work["images"]
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
        results = run_bench(opened, image_set, plan, typed, silence_s=work["timeout"], hooks=hooks)
    if out is not None:
        results.save(out)
    if as_json:
        print_json(results.data)
        return
    transfers = any(of.get("transfers_s") for cell in results.data["cells"] for of in cell["measurements"])
    table(list(_rows(results)), columns=(*_COLUMNS, *_TRANSFERS) if transfers else _COLUMNS)
    for cell in results.data["cells"]:
        if cell["problem"] is not None:
            click.echo(f"not run: {_name(cell)}: {cell['problem']}", err=True)
    for warning in results.data["noise"]["warnings"]:
        warn(warning)
    if out is not None:
        click.echo(f"{out}: written")


def _check_writable(out: Path) -> None:
    """Raise OutputError before minutes of measuring rather than after them."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{out} cannot be written; choose another place for --out")


def _rows(results: Results) -> Iterator[Sequence[object]]:
    from ...bench.breakdown import COMPUTE, DEVICE_TO_HOST, HOST_TO_DEVICE
    from ...bench.percentiles import percentile_words
    from ...report.words import duration

    for cell in results.data["cells"]:
        for of in cell["measurements"]:
            transfers = of.get("transfers_s") or {}
            times = (transfers.get(name) for name in (HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST))
            yield (
                _name(cell),
                of["operation"],
                of["scenario"],
                of["batch"],
                duration(of["latency_s"]["p50"]),
                percentile_words(of["latency_s"], 99),
                f"{of['throughput']:.1f}",
                _mebibytes(of["peak_host_bytes"]),
                _mebibytes(of["peak_device_bytes"]),
                *(duration(seconds) for seconds in times if seconds is not None),
            )


def _name(cell: Cell) -> str:
    """Name a cell, as in "auto, fp32, cpu (onnxruntime)": what was asked for, and what it became where left open."""
    from ...bench.differences import cell_name

    ran = ", ".join(dict.fromkeys(artifact["backend"] for artifact in cell["artifacts"]))
    return f"{cell_name(cell)} ({ran})" if cell["backend"] == "auto" and ran else cell_name(cell)


def _mebibytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**20:.0f} MiB"
