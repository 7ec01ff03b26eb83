"""``coda export``: a tokenizer folder -> a measured, sealed bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, print_json, progress, table
from coda_runtime.manifest import Manifest


def parity_rows(manifest: Manifest) -> list[list[str]]:
    """One row an artifact and backend: file, where it ran, token agreement, PSNR against the tokenizer's images."""
    rows = []
    for artifact in manifest.artifacts:
        for where, numbers in artifact.parity.items():
            rows.append([artifact.file, where, *_cells(artifact.part, numbers)])
    return rows


def _cells(part: str, numbers: dict[str, Any]) -> list[str]:
    if "reason" in numbers:
        return ["not run", "not run"]
    if part == "decoder":
        return ["", "identical" if numbers["psnr"] is None else f"{numbers['psnr']:.1f} dB"]
    return [f"{numbers['step_agreement']:.3%} ({numbers['agreement']:.3%} free-running)", ""]


@coda_command(
    example="coda export tokenizer/ --out bundle/\ncoda export tokenizer/ --out bundle/ --precision fp32,fp16"
)
@click.argument("tokenizer")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bundle folder to write.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16, bf16, or several; first is default.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Least share of equal tokens, 0 to 1.")
@click.option("--min-psnr", type=float, help="Least PSNR in dB between the bundle's and the tokenizer's images.")
@click.option(
    "--parity-images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of photographs to measure parity on; shipped ones by default.",
)
@json_option
def command(
    tokenizer: str,
    out: Path,
    precision: str,
    min_agreement: float | None,
    min_psnr: float | None,
    parity_images: Path | None,
    as_json: bool,
) -> None:
    """Export a tokenizer (folder or hub id) to ONNX: a bundle that coda-runtime serves without PyTorch.

    Every graph is run on real photographs and compared with the tokenizer. A part that falls under its precision's
    floor fails the export, and nothing is written.
    """
    from coda_deploy.export import export_tokenizer
    from coda_export import DEFAULT_FLOORS, Floor
    from coda_export.bundle import check_precisions

    precisions = [name.strip() for name in precision.split(",") if name.strip()]
    check_precisions(precisions)
    floors = {
        name: Floor(
            floor.min_agreement if min_agreement is None else min_agreement,
            floor.min_psnr if min_psnr is None else min_psnr,
        )
        for name, floor in DEFAULT_FLOORS.items()
    }
    with progress("exporting", total=4 * len(precisions) + 3) as bar:

        def step(text: str) -> None:
            bar.describe(text)
            bar.advance()

        manifest = export_tokenizer(
            tokenizer, out, precisions=precisions, floors=floors, images=parity_images, progress=step
        )
    if as_json:
        print_json(manifest.to_json())
        return
    table(parity_rows(manifest), columns=["file", "ran on", "token agreement", "PSNR"])
    for artifact in manifest.artifacts:
        for where, numbers in artifact.parity.items():
            if "reason" in numbers:
                click.echo(f"warning: {artifact.file} was not measured on {where}: {numbers['reason']}", err=True)
    click.echo(f"{out}: {sum(artifact.bytes for artifact in manifest.artifacts) / 1e6:.1f} MB")
