"""`coda inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..format.parts import GRAPHS
from ..format.sizes import scales_text, shape_text
from ..format.vae_record import vae_rows
from ..io.json_fields import flat_rows
from .base import command as coda_command
from .base import footnote, json_option, print_json, table
from .engine_options import profiles_cell
from .options import bundle_argument

if TYPE_CHECKING:
    from ..format.bundle import Bundle
    from ..format.manifest import Artifact, Manifest

_ARTIFACT_COLUMNS = ("part", "format", "precision", "size", "file", "batch", "built for")


@coda_command(name="inspect", example="coda inspect bundle\ncoda inspect bundle --json")
@bundle_argument
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Show what BUNDLE holds: what the tokenizer computes, the files, where it came from, how faithful it is."""
    from ..format.bundle import Bundle
    from ..hub_source import find_bundle
    from ..parity.rows import AGREEMENT_LEGEND, PARITY_COLUMNS, parity_rows, reasons

    opened = Bundle.open(find_bundle(bundle))
    opened.verify()
    if as_json:
        print_json({"bundle": str(opened.folder), **opened.manifest.to_json()})
        return
    manifest = opened.manifest
    table(list(_facts(opened, manifest)))
    click.echo()
    table([_row(artifact) for artifact in manifest.artifacts], columns=_ARTIFACT_COLUMNS)
    parity = [row for artifact in manifest.artifacts for row in parity_rows(artifact, artifact.parity)]
    if parity:
        click.echo()
        footnote("Parity with the float32 tokenizer, the worst of the batch sizes")
        table(parity, columns=PARITY_COLUMNS)
        footnote(AGREEMENT_LEGEND)
        for reason in reasons({artifact.file: artifact.parity for artifact in manifest.artifacts}):
            footnote(reason)
    provenance = list(flat_rows(manifest.provenance))
    if provenance:
        click.echo("\nProvenance")
        table(provenance)


def _facts(bundle: Bundle, manifest: Manifest) -> Iterator[tuple[str, object]]:
    spec = manifest.spec
    yield "bundle", bundle.folder
    yield "format version", manifest.format_version
    yield "variant", spec.variant
    yield "images", f"{shape_text(spec.image_size)} {spec.color_order}, {spec.resize}, {spec.crop} crop"
    yield "latent", f"{spec.latent_channels} x {shape_text(spec.latent_size)} (downsample {spec.downsample})"
    yield from vae_rows(manifest.provenance)
    yield "codes", spec.vocab_size
    yield "tokens", f"{spec.num_tokens} in scales {scales_text(spec.scales)}"
    yield "precisions", f"{', '.join(manifest.precisions)} (default {manifest.default_precision})"
    yield "license", manifest.license or "not stated"
    yield from _tuned(bundle)
    yield "sealed", "yes, by " + manifest.checksums if manifest.checksums else "no, only by the manifest's digests"


def _tuned(bundle: Bundle) -> Iterator[tuple[str, object]]:
    """Yield what `coda tune` recorded for each device, of each precision; or why that is not followed."""
    from ..report.words import duration
    from ..tuned import records

    for device, record in records(bundle).items():
        if isinstance(record, str):
            yield f"tuned on {device}", record
            continue
        for precision, tuned in record.precisions.items():
            settings = (
                f"{part} {of.backend} {'auto' if of.threads is None else of.threads}"
                for part, of in tuned.parts.items()
            )
            times = (f"{name} {duration(of.latency_s)}, batch {of.batch}" for name, of in tuned.measured.items())
            yield f"tuned on {device}", f"{precision}: {'; '.join([*settings, *times])} ({record.created})"


def _row(artifact: Artifact) -> tuple[str, ...]:
    any_batch = "any" if artifact.part in GRAPHS and artifact.engine is None else ""
    batch = profiles_cell(artifact) if artifact.profiles else any_batch
    size, built = _size(artifact.bytes), _built_for(artifact.engine or {})
    return artifact.part, artifact.format, artifact.precision, size, artifact.file, batch, built


def _built_for(engine: Mapping[str, Any]) -> str:
    """Return what the `engine` object of any format says of the library, GPUs and the system, as it is written."""
    library = [engine[name] for name in ("library", "library_version") if engine.get(name) is not None]
    targets = engine.get("targets")
    fields = [" ".join(map(str, library)), " ".join(map(str, targets)) if isinstance(targets, list) else targets]
    return ", ".join(str(field) for field in (*fields, engine.get("gpu"), engine.get("os")) if field)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
