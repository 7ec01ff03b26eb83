"""`coda verify`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backends.base import LoadOptions
from ..errors import ChecksumError, CodaError, InputError, MissingDependencyError, ParityError
from ..format.manifest import MANIFEST_NAME, Manifest
from ..format.parity import ParityRecord, parity_json, parity_records
from ..format.parts import GRAPHS
from ..io.counts import count
from .base import command as coda_command
from .base import footnote, json_option, print_json, printable, progress, table
from .layers import LAYER_COLUMNS, PartLayers, layer_rows
from .options import bundle_argument, folders, load_options, typed_load_options
from .sources import warn_of_omitted

if TYPE_CHECKING:
    from ..format.bundle import Bundle

Parity = dict[str, dict[str, ParityRecord]]
"""By artifact file, then by backend and device."""

_EXAMPLE = """coda verify bundle
coda verify bundle --parity --device cuda
coda verify bundle --parity --backend tensorrt-rtx --record
coda verify bundle --tokenizer tokenizer
coda verify bundle --layers
coda verify bundle --layers --precision bf16 --backend openvino
coda verify bundle --layers --tokenizer tokenizer"""
_NO_PARITY = (
    "only checksums and what the graphs hold were checked; to measure parity again, give --parity, or --tokenizer DIR"
)


@coda_command(
    name="verify",
    example=_EXAMPLE,
)
@bundle_argument
@click.option("--parity", "measure", is_flag=True, help="Measure parity with the samples that BUNDLE carries.")
@click.option("--record", is_flag=True, help="Write what --parity measured into BUNDLE's manifest, and seal it again.")
@click.option(
    "--tokenizer",
    shell_complete=folders,
    help="What BUNDLE was exported from: a tokenizer folder, a hub id, official:VARIANT.",
)
@click.option("--parity-images", type=click.Path(path_type=Path), help="Images to measure parity on.")
@click.option("--layers", "by_layer", is_flag=True, help="Compare every layer, and name the first that is off.")
@click.option("--precision", default="auto", help="With --layers: whose layers to compare, e.g. int8.")
@json_option
@load_options(but=["precision", "color", "nvtx", "ignore_tuning"])
@click.pass_context
def command(
    ctx: click.Context,
    bundle: str,
    measure: bool,
    record: bool,
    tokenizer: str | None,
    parity_images: Path | None,
    by_layer: bool,
    precision: str,
    as_json: bool,
    options: LoadOptions,
) -> None:
    """Check every file of BUNDLE, reading all of it; then measure parity again, if that is asked for.

    A file must have its checksum, and an ONNX graph only operators and loops that a bundle may hold.

    --parity runs every graph and engine that may load here on the photographs in BUNDLE, and needs nothing else;
    --device, --backend and the like say where, and --allow-host-code is only for a BUNDLE that you trust.
    --tokenizer runs the ONNX files beside the tokenizer itself, and needs coda-deploy. Both fail when a part falls
    below the threshold of its precision, and name what could not be measured.

    --layers runs one image through the encoder and the decoder, in --precision and where --backend says, and compares
    every layer's output with that of the fp32 graphs on onnxruntime, or with --tokenizer of the tokenizer's own
    modules. It fails at the first layer that alone loses more than its precision may. It needs coda-deploy.

    --record is for engines that were built where they could not run: it adds their parity and the memory of their batch
    profiles to manifest.json, and writes nothing when a part falls below its threshold.
    """
    from ..build.measuring import scratch_of
    from ..format.bundle import Bundle
    from ..hub_source import find_bundle
    from ..parity import check_recordable, record_parity
    from ..parity.rows import AGREEMENT_LEGEND, PARITY_COLUMNS, parity_rows, unmeasured_files

    typed = typed_load_options(ctx)
    if by_layer:
        _check_usage_of_layers(measure, record, parity_images)
    else:
        if "--precision" in typed:
            raise click.UsageError("--precision needs --layers: parity is measured in every precision")
        _check_usage(measure, [*typed, *(["--record"] if record else [])], tokenizer, parity_images)
    opened = Bundle.open(find_bundle(bundle))
    if record:
        check_recordable(opened)
    files: list[dict[str, Any]] = []
    with progress("reading", len(opened.manifest.artifacts)) as bar:
        for name, problem in opened.check("always"):
            files.append({"file": name, "ok": problem is None, "problem": None if problem is None else str(problem)})
            bar.advance()
    broken = [str(entry["problem"]) for entry in files if not entry["ok"]]
    failure: CodaError | None = None
    layers: list[PartLayers] = []
    parity: Parity | None = None
    recorded: list[str] = []
    if broken:
        failure = ChecksumError(_first(broken))
    elif by_layer:
        layers = _by_layers(opened.folder, dataclasses.replace(options, precision=precision), tokenizer)
        failure = next((ParityError(part["problem"]) for part in layers if part["problem"] is not None), None)
    elif measure:
        parity, missed = _by_samples(opened, options)
        failure = ParityError(_first(missed)) if missed else None
        if record and failure is None:
            recorded = record_parity(opened, parity, scratch_of(opened, parity, options))[1]
    elif tokenizer is not None:
        warn_of_omitted(parity_images)
        parity = _by_tokenizer(opened.folder, tokenizer, parity_images)
    missing = {} if parity is None else unmeasured_files(opened.manifest, parity)
    note = _NO_PARITY if parity is None and not layers else _note(opened.manifest, missing)
    told = None if parity is None else {file: parity_json(records) for file, records in parity.items()}
    if as_json:
        report = {"bundle": str(opened.folder), "ok": failure is None, "files": files, "parity": told}
        print_json(report | {"unmeasured": missing, "note": note, "recorded": recorded, "layers": layers or None})
    else:
        table([("ok" if entry["ok"] else "BROKEN", entry["file"]) for entry in files])
        rows = [row for a in opened.manifest.artifacts for row in parity_rows(a, (told or {}).get(a.file, {}))]
        if rows:
            click.echo()
            table(rows, columns=PARITY_COLUMNS)
            footnote(AGREEMENT_LEGEND)
        for part in layers:
            click.echo(f"\n{part['part']}, {part['precision']} on {part['backend']} beside {part['beside']}")
            table(layer_rows(part["layers"]), columns=LAYER_COLUMNS)
        if failure is None and layers:
            click.echo("\nall files are intact, and every layer keeps its bound")
        elif failure is None:
            click.echo(f"all files are intact{', and parity holds' if note is None else f'; {printable(note)}'}")
        if recorded:
            click.echo(f"recorded in {opened.folder / MANIFEST_NAME}: {', '.join(recorded)}")
    if failure is not None:
        raise failure


def _check_usage(measure: bool, only_with_parity: list[str], tokenizer: str | None, images: Path | None) -> None:
    if images is not None and tokenizer is None:
        raise click.UsageError("--parity-images needs --tokenizer")
    if measure and tokenizer is not None:
        raise click.UsageError("choose --parity, with the bundle's own samples, or --tokenizer")
    if only_with_parity and not measure:
        verb = "needs" if len(only_with_parity) == 1 else "need"
        raise click.UsageError(f"{' and '.join(only_with_parity)} {verb} --parity")


def _check_usage_of_layers(measure: bool, record: bool, images: Path | None) -> None:
    others = {"--parity": measure, "--record": record, "--parity-images": images is not None}
    if given := [name for name, is_given in others.items() if is_given]:
        raise click.UsageError(f"--layers compares layers for one image of the bundle's: leave out {given[0]}")


def _note(manifest: Manifest, missing: dict[str, str]) -> str | None:
    """Return what is to be said beside "parity holds", None if all was measured."""
    if not missing:
        return None
    total = _graphs(manifest)
    held = total - len(missing)
    return f"parity holds for {held} of {count(total, 'graph')}, the others were not measured: {_reasons_text(missing)}"


def _graphs(manifest: Manifest) -> int:
    return sum(artifact.part in GRAPHS for artifact in manifest.artifacts)


def _reasons_text(missing: dict[str, str]) -> str:
    """Return each reason once, with the files it holds for."""
    files: dict[str, list[str]] = {}
    for file, reason in missing.items():
        files.setdefault(reason, []).append(file)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in files.items())


def _first(problems: list[str]) -> str:
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _by_samples(bundle: Bundle, options: LoadOptions) -> tuple[Parity, list[str]]:
    """Return {artifact file: its parity}, and the thresholds that were missed. Raises CodaError."""
    from ..parity import measure_bundle
    from ..parity.rows import unmeasured_files

    parity: Parity = {}
    missed = []
    with progress("measuring", total=None) as bar:
        for artifact, records, problem in measure_bundle(bundle, options):
            parity[artifact.file] = records
            if problem is not None:
                missed.append(str(problem))
            bar.describe(f"measured {artifact.file}")
    missing = unmeasured_files(bundle.manifest, parity)
    if not missed and len(missing) == _graphs(bundle.manifest):
        raise ParityError(f"no graph could be measured here: {_reasons_text(missing)}")
    return parity, missed


def _by_layers(bundle: Path, options: LoadOptions, tokenizer: str | None) -> list[PartLayers]:
    """Return the comparison of each part's layers. Raises CodaError."""
    plugins = metadata.entry_points(group="coda.verify", name="layers")
    if not plugins:
        raise MissingDependencyError("comparing layers needs coda-deploy, which is not installed", "coda-deploy")
    with progress("comparing layers", total=None) as bar:
        found: list[PartLayers] = next(iter(plugins)).load()(bundle, options, tokenizer, bar.describe)
    return found


def _by_tokenizer(bundle: Path, tokenizer: str, images: Path | None) -> Parity:
    """Return {artifact file: its parity}. Raises CodaError when a threshold is missed."""
    plugins = metadata.entry_points(group="coda.verify", name="parity")
    if not plugins:
        raise MissingDependencyError(
            "measuring parity beside a tokenizer needs coda-deploy, which is not installed", "coda-deploy"
        )
    if images is not None and not images.is_dir():
        raise InputError(f"there is no folder {str(images)!r}; check the path")
    found: Mapping[str, Mapping[str, object]] = next(iter(plugins)).load()(bundle, tokenizer, images)
    return {file: parity_records(parity) for file, parity in found.items()}
