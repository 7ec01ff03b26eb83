"""``coda export``: a tokenizer folder -> a measured, sealed bundle."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coda_deploy.cli.sizes import size_options
from coda_runtime.backends.tensorrt.library import LIBRARIES
from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import footnote, json_option, print_json, progress, table, warn
from coda_runtime.cli.engine_options import BATCH_HELP, tell_memory
from coda_runtime.cli.options import folders
from coda_runtime.cli.sources import warn_of_omitted
from coda_runtime.cli.triton_options import TENSORRT, TritonRequest, summary, triton_options, write_if_asked
from coda_runtime.errors import InputError
from coda_runtime.format.precision import FP32, PRECISIONS, Threshold, precision_of
from coda_runtime.format.sizes import Scales, Size

if TYPE_CHECKING:
    from coda_runtime.build.bundle import EngineRequest

PTX = "ptx"


def _requests(engines: Sequence[str], target: str | None, batches: Sequence[str]) -> list[EngineRequest]:
    """Return what the options ask to build. Raises InputError for an option that would do nothing."""
    from coda_runtime.build.bundle import EngineRequest
    from coda_runtime.build.options import BuildOptions, parse_batches, parse_targets

    libraries = list(dict.fromkeys(name for name in engines if name != PTX))
    for option, is_given in (("--target", target is not None), ("--batch", bool(batches))):
        if is_given and not libraries:
            raise InputError(f"{option} applies to engines, and none is requested: add --engine tensorrt-rtx")
    options = BuildOptions(
        batch=parse_batches(batches) if batches else BuildOptions.batch,
        targets=parse_targets(target) if target is not None else (),
    )
    return [EngineRequest(name, options, report=tell_memory) for name in libraries]


def _with_drop(
    thresholds: Mapping[str, Threshold], precisions: Sequence[str], max_psnr_drop: float
) -> dict[str, Threshold]:
    """Return the thresholds that are of a loss of PSNR, with this one. Raises InputError where none is asked for."""
    judged = {name: known for name, known in thresholds.items() if known.max_psnr_drop is not None}
    if not judged.keys() & set(precisions):
        raise InputError(f"--max-psnr-drop is for {', '.join(judged)}, which is not asked for: add it to --precision")
    return {name: dataclasses.replace(known, max_psnr_drop=max_psnr_drop) for name, known in judged.items()}


def _target(out: Path | None, into: Path | None, force: bool) -> Path:
    """Return where the bundle is, or is to be. Raises ``UsageError`` for options that do not go together."""
    if out is not None and into is not None:
        raise click.UsageError("--out writes a new bundle and --into adds to one: give one of them")
    if force and into is not None:
        raise click.UsageError("--force replaces a bundle in --out, and --into keeps what is there: leave out one")
    target = out if into is None else into
    if target is None:
        raise click.UsageError("Missing option '--out'.")
    return target


@coda_command(
    example="""coda export tokenizer/ --out bundle/
coda export tokenizer/ --out bundle/ --precision fp32,bf16
coda export tokenizer/ --out bundle/ --precision fp32,int8 --calibration photographs/
coda export tokenizer/ --into bundle/ --precision fp16
coda export tokenizer/ --out bundle/ --single-graph
coda export tokenizer/ --out bundle/ --engine tensorrt-rtx --target sm89,sm120 --batch 1,1,1 --batch 8,16,32
coda export tokenizer/ --out bundle/ --image-size 192x320
coda export tokenizer/ --out bundle/ --triton models/
coda export official:flux_v65536 --out bundle/"""
)
@click.argument("tokenizer", shell_complete=folders)
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder to write.")
@click.option(
    "--into",
    metavar="BUNDLE",
    type=click.Path(path_type=Path),
    help="Add the precisions to this bundle instead; its engines and its default stay.",
)
@click.option("--force", is_flag=True, help="Replace a bundle in --out, and all that was built into it.")
@size_options
@click.option(
    "--precision",
    default=FP32,
    show_default=True,
    help=f"Precisions, separated by commas: {', '.join(PRECISIONS)}; the first is the default.",
)
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Minimum share of equal tokens, 0 to 1.")
@click.option("--min-psnr", type=float, help="Minimum PSNR in dB between the bundle's and the tokenizer's images.")
@click.option(
    "--max-psnr-drop",
    type=click.FloatRange(min=0),
    metavar="DB",
    help="How much PSNR an image may lose there and back in int8, in the mean; the worst may lose four times that.",
)
@click.option(
    "--calibration",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photographs that int8's scales are taken from; shipped ones by default.",
)
@click.option(
    "--parity-images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photographs to measure parity on; shipped ones by default.",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice((*LIBRARIES, PTX)),
    multiple=True,
    help="Build engines too; repeatable. ptx: the quantizer's fused GPU kernels.",
)
@click.option("--target", help="GPUs to build for, e.g. sm89,sm120. tensorrt-rtx only; tensorrt takes the local GPU.")
@click.option("--batch", "batches", multiple=True, metavar="MIN,OPT,MAX", help=f"{BATCH_HELP}  [default: 1,4,8]")
@click.option(
    "--single-graph",
    is_flag=True,
    help="Add encode.PRECISION.onnx, from image to ids in one file, for programs outside Python.",
)
@triton_options
@json_option
def command(
    tokenizer: str,
    out: Path | None,
    into: Path | None,
    force: bool,
    image_size: Size | None,
    schedule: Scales | None,
    precision: str,
    min_agreement: float | None,
    min_psnr: float | None,
    max_psnr_drop: float | None,
    calibration: Path | None,
    parity_images: Path | None,
    engines: tuple[str, ...],
    target: str | None,
    batches: tuple[str, ...],
    single_graph: bool,
    triton: TritonRequest | None,
    as_json: bool,
) -> None:
    """Export a tokenizer (folder or hub id) to ONNX: a bundle that coda-runtime serves without PyTorch.

    official:VARIANT or official:VARIANT@REVISION is a checkpoint that CODA's authors publish on the Hugging Face Hub.

    Every graph is run on real photographs and compared with the tokenizer. A part that falls below its precision's
    threshold fails the export, and nothing is written. int8 takes its scales from photographs, never those it is
    measured on, and is judged by what an image loses there and back. `coda build` can add engines later, with more
    options. A bundle that is there already is not replaced without --force.

    With --image-size or --schedule the bundle is for images of another size than the tokenizer was trained on, its
    weights as they are; `coda train --init` trains it for them.

    With --triton, it also writes a model repository for NVIDIA Triton Inference Server.
    """
    from coda_deploy.evaluate.devices import threads_of_quota
    from coda_deploy.export import export_tokenizer, extend_bundle
    from coda_export import DEFAULT_THRESHOLDS
    from coda_export.bundle import check_precisions
    from coda_runtime.format.bundle import Bundle
    from coda_runtime.format.parity import unmeasured
    from coda_runtime.parity.rows import AGREEMENT_LEGEND, PARITY_COLUMNS, parity_rows

    target_folder = _target(out, into, force)
    if into is not None and (image_size, schedule) != (None, None):
        raise click.UsageError("--into adds to a bundle, which has its size: leave out --image-size and --schedule")
    precisions = [name.strip() for name in precision.split(",") if name.strip()]
    check_precisions(precisions)
    given = {"min_agreement": min_agreement, "min_psnr": min_psnr}
    bounds = {field: value for field, value in given.items() if value is not None}
    thresholds = {name: dataclasses.replace(threshold, **bounds) for name, threshold in DEFAULT_THRESHOLDS.items()}
    if max_psnr_drop is not None:
        thresholds |= _with_drop(thresholds, precisions, max_psnr_drop)
    requests = _requests(engines, target, batches)
    if triton is not None:
        there = Bundle.open(into).manifest if into is not None else None
        profiles = [request.options.profiles for request in requests if request.library == TENSORRT]
        if there is not None:
            profiles += [e.profiles for e in there.artifacts if e.format == TENSORRT and e.profiles]
        triton.check(target_folder, [*(there.precisions if there else ()), *precisions], profiles)
    warn_of_omitted(parity_images)
    warn_of_omitted(calibration)
    steps = (
        4 * len(precisions)
        + 2 * sum(precision_of(name).is_integer for name in precisions)
        + (5 if into is None else 1)
        + (PTX in engines)
        + 2 * len(precisions) * single_graph
        + len(requests) * 2 * (2 * len(precisions) + 1)
    )
    with progress("exporting", total=steps) as bar:

        def step(text: str) -> None:
            bar.describe(text)
            bar.advance()

        make = (
            extend_bundle
            if into is not None
            else functools.partial(export_tokenizer, replace=force, image_size=image_size, scales=schedule)
        )
        with threads_of_quota():
            manifest = make(
                tokenizer,
                target_folder,
                precisions=precisions,
                engines=requests,
                kernels=PTX in engines,
                single_graph=single_graph,
                thresholds=thresholds,
                images=parity_images,
                calibration=calibration,
                progress=step,
            )
    repository = write_if_asked(triton, target_folder)
    if as_json:
        print_json(manifest.to_json())
        return
    table(
        [row for artifact in manifest.artifacts for row in parity_rows(artifact, artifact.parity)],
        columns=PARITY_COLUMNS,
    )
    footnote(AGREEMENT_LEGEND)
    skipped: dict[str, list[str]] = {}
    for artifact in manifest.artifacts:
        for _, reason in unmeasured(artifact.parity):
            skipped.setdefault(reason, []).append(artifact.file)
    for reason, files in skipped.items():
        warn(f"not measured: {', '.join(files)}: {reason}")
    click.echo(f"{target_folder}: {sum(artifact.bytes for artifact in manifest.artifacts) / 1e6:.1f} MB")
    if repository is not None:
        click.echo(summary(repository))
