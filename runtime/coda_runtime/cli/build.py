"""`coda build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..backends.tensorrt.library import LIBRARIES
from ..build.options import HARDWARE
from ..errors import InputError
from ..format.precision import PRECISIONS
from ..io.counts import count
from ..io.user_folders import expand_home
from .base import command as coda_command
from .base import json_option, print_json, progress, table
from .engine_options import BATCH_HELP, megabytes, profiles_cell, tell_memory
from .options import bundle_argument
from .triton_options import TENSORRT, TritonRequest, summary, triton_options, write_if_asked

if TYPE_CHECKING:
    from ..build.bundle import EngineRequest
    from ..build.memory import PartMemory
    from ..format.manifest import Artifact, Manifest
    from ..triton import Repository

_EXAMPLE = """coda build bundle --engine tensorrt --batch 1,8,32
coda build bundle --engine tensorrt --batch 1,1,1 --batch 8,16,32
coda build bundle --engine tensorrt-rtx --target sm89,sm120 --precision bf16 --out bundle-rtx
coda build bundle --triton models/"""


@coda_command(name="build", example=_EXAMPLE)
@bundle_argument
@click.option("--engine", type=click.Choice(LIBRARIES), help="The library to build with.")
@click.option("--target", help="GPUs to build for, such as sm89,sm120. tensorrt-rtx only; tensorrt takes the one here.")
@click.option("--batch", default=["1,4,8"], show_default="1,4,8", multiple=True, metavar="MIN,OPT,MAX", help=BATCH_HELP)
@click.option(
    "--precision",
    help=f"Precisions to build, separated by commas: {', '.join(PRECISIONS)}; all that the bundle has by default.",
)
@click.option("--workspace", type=float, metavar="GIB", help="Maximum scratch memory for a layer.")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="How long to search for tactics, from 0 (quick) to 5 (longest).",
)
@click.option("--timing-cache", type=click.Path(path_type=Path, dir_okay=False), help="File of measured tactics.")
@click.option("--hardware", type=click.Choice(list(HARDWARE)), default="none", help="Other GPUs the engine may run on.")
@click.option("--version-compatible", is_flag=True, help="Let later versions of TensorRT load it (brings host code).")
@click.option("--out", type=click.Path(path_type=Path), help="Write the bundle here instead of extending BUNDLE.")
@triton_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    bundle: str,
    engine: str | None,
    target: str | None,
    batch: tuple[str, ...],
    precision: str | None,
    workspace: float | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    hardware: str,
    version_compatible: bool,
    out: Path | None,
    triton: TritonRequest | None,
    as_json: bool,
) -> None:
    """Build engines for BUNDLE's ONNX files and add them to it, with their parity where they can run here.

    An engine fits one library version and the GPUs it was built for, so this runs on the target machine, or for
    tensorrt-rtx anywhere. It needs no PyTorch. Whatever fails leaves BUNDLE as it was.

    With --triton it writes a model repository for NVIDIA Triton Inference Server afterwards, or without --engine from
    what BUNDLE has.
    """
    from ..build.bundle import EngineRequest
    from ..build.options import BuildOptions, parse_batches, parse_targets
    from ..format.bundle import Bundle
    from ..hub_source import find_bundle

    if engine is None:
        _check_nothing_to_build(ctx, triton)
        _report(bundle, None, write_if_asked(triton, bundle), as_json)
        return
    options = BuildOptions(
        batch=parse_batches(batch),
        targets=parse_targets(target) if target is not None else (),
        workspace_gib=workspace,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        hardware=hardware,
        version_compatible=version_compatible,
    )
    precisions = tuple(name.strip() for name in (precision or "").split(",") if name.strip())
    memory: list[PartMemory] = []
    request = EngineRequest(engine, options, precisions, report=memory.extend if as_json else tell_memory)
    folder = find_bundle(bundle)
    if out is None and not expand_home(bundle).exists():
        raise InputError(f"{bundle} came from the Hub, and its copy here must not be changed; name a folder with --out")
    before = Bundle.open(folder).manifest
    destination = out or folder
    if triton is not None:
        there = [made.profiles for made in before.artifacts if made.format == TENSORRT and made.profiles]
        triton.check(destination, before.precisions, [options.profiles] if engine == TENSORRT else there)
    engines = _build(folder, request, out, before)
    _report(str(destination), engines, write_if_asked(triton, destination), as_json, memory)


def _check_nothing_to_build(ctx: click.Context, triton: TritonRequest | None) -> None:
    """Raise UsageError where neither engines nor a repository are asked for, InputError for engines' options alone."""
    if triton is None:
        raise click.UsageError("say what to make: --engine or --triton", ctx)
    for name in ("target", "batch", "precision", "workspace", "optimization_level", "timing_cache", "hardware", "out"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(
                f"--{name.replace('_', '-')} says how engines are built, and none is requested: add --engine tensorrt"
            )


def _build(folder: Path, request: EngineRequest, out: Path | None, before: Manifest) -> list[Artifact]:
    """Add the engines to the bundle; return those that are new in it."""
    from ..build.bundle import add_engines

    with progress("building", total=None) as bar:
        doing = [""]

        def step(text: str) -> None:
            doing[0] = text
            bar.describe(text)

        def watch(phase: str, done: int, total: int) -> None:
            bar.describe(f"{doing[0]}: {phase.lower()} {done}/{total}")

        manifest = add_engines(folder, request, out=out, progress=step, watch=watch)
    known = {artifact.file: artifact.sha256 for artifact in before.artifacts}
    return [a for a in manifest.artifacts if a.format == request.library and known.get(a.file) != a.sha256]


def _report(
    bundle: str,
    engines: list[Artifact] | None,
    made: Repository | None,
    as_json: bool,
    memory: Sequence[PartMemory] = (),
) -> None:
    """Say what was made; `engines` is None where none were asked for."""
    from ..format.parity import unmeasured

    if as_json:
        more: dict[str, Any] = {} if made is None else {"triton": made.to_json()}
        if memory:
            more["memory"] = [part.to_json() for part in memory]
        print_json({"bundle": bundle, "engines": [artifact.to_json() for artifact in engines or ()], **more})
        return
    if engines is not None:
        table([_row(artifact) for artifact in engines], columns=("file", "size", "batch", "targets", "parity"))
        for reason in dict.fromkeys(reason for artifact in engines for _, reason in unmeasured(artifact.parity)):
            click.echo(f"parity was not measured: {reason}", err=True)
        click.echo(f"{bundle}: {count(len(engines), 'engine')} added")
    if made is not None:
        click.echo(summary(made))


def _row(artifact: Artifact) -> tuple[str, ...]:
    from ..format.engine_key import EngineKey

    return (
        artifact.file,
        megabytes(artifact.bytes),
        profiles_cell(artifact),
        " ".join(EngineKey.from_json(artifact.engine).targets),
        _parity(artifact),
    )


def _parity(artifact: Artifact) -> str:
    from ..format.parity import Measured, parity_records
    from ..parity.rows import agreement_text, psnr_text

    return ", ".join(
        agreement_text(record) or psnr_text(record) if isinstance(record, Measured) else "not run"
        for record in parity_records(artifact.parity).values()
    )
