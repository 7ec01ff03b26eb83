"""``coda eval``: what a tokenizer or a bundle keeps of images, in figures and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, print_json, progress, table
from coda_runtime.errors import InputError
from coda_runtime.images import SUFFIXES
from coda_runtime.outputs import staged_file

if TYPE_CHECKING:
    from coda_deploy.evaluate import Evaluation

SKIPPABLE = ("ssim", "vae")


@contextmanager
def output(path: Path | None) -> Iterator[Path | None]:
    """Where to write a result that takes its place at the end; made before the work, so that it fails before it."""
    if path is None:
        yield None
        return
    if path.exists() and path.suffix.lower() in SUFFIXES | {".npy", ".tar"}:
        raise InputError(f"{path} is there already and looks like images, not like a result: name another file")
    with staged_file(path) as beside:
        yield beside


@coda_command(
    name="eval",
    example="coda eval tokenizer/ --data photos/\n"
    "coda eval bundle/ --data photos/ --against tokenizer/ --report eval.html\n"
    "coda eval tokenizer/ --data imagenet/val --rfid --lpips --batch 32 --workers 8 --json\n"
    "coda eval official:flux_v65536 --data imagenet/val --rfid",
)
@click.argument("subject", metavar="TOKENIZER_OR_BUNDLE")
@click.option("--data", required=True, help="Folder of images, .tar shards, a .npy array, or hf:owner/name@split.")
@click.option("--limit", type=click.IntRange(min=1), help="Use that many images, evenly spread over the data.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images at once.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read images.")
@click.option("--lpips", is_flag=True, help="Compute LPIPS too; needs VGG-16's weights.")
@click.option("--lpips-weights", type=click.Path(path_type=Path), help="Their file; implies --lpips.")
@click.option("--rfid", is_flag=True, help="Compute rFID too; needs Inception's weights.")
@click.option("--inception-weights", type=click.Path(path_type=Path), help="Their file; implies --rfid.")
@click.option("--against", metavar="OTHER", help="Another tokenizer or bundle, to compare tokens with.")
@click.option(
    "--skip", type=click.Choice(SKIPPABLE), multiple=True, help="Leave out what is on by default; repeatable."
)
@click.option("--report", type=click.Path(path_type=Path), help="HTML page to write.")
@click.option("--show", type=click.IntRange(0, 100), default=8, show_default=True, help="Worst and best images in it.")
@click.option("--per-image", type=click.Path(path_type=Path), help="JSON Lines file to write, one image a line.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision", default="auto", show_default=True, help="A bundle's: auto (its default), fp32, fp16, bf16."
)
@click.option("--backend", default="auto", show_default=True, help="A bundle's: auto, or an engine library's name.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads for one run.")
@json_option
def command(
    subject: str,
    data: str,
    report: Path | None,
    per_image: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Encode and decode images with a tokenizer (in PyTorch) or a bundle, and measure what comes back.

    PSNR, SSIM, use of the codebook, bits per pixel, and the same of the continuous VAE where it is at hand; LPIPS and
    rFID where asked for. Every image is resized by its shorter side and cropped at the centre first.
    """
    if report is not None and per_image is not None and os.path.realpath(report) == os.path.realpath(per_image):
        raise InputError(f"--report and --per-image both name {report}: give each a file of its own")
    with ExitStack() as stack:
        page = stack.enter_context(output(report))
        lines = stack.enter_context(output(per_image))
        found = _evaluate(subject, data, page is not None, **settings)
        if page is not None:
            from coda_deploy.evaluate.report import render

            page.write_text(render(found), encoding="utf-8")
        if lines is not None:
            with lines.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(image, allow_nan=False) + "\n" for image in found.per_image())
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
        for path in (report, per_image):
            if path is not None:
                click.echo(f"written: {path}")


def _evaluate(
    subject: str,
    data: str,
    pictures: bool,
    *,
    limit: int | None,
    batch: int,
    workers: int,
    lpips: bool,
    lpips_weights: Path | None,
    rfid: bool,
    inception_weights: Path | None,
    against: str | None,
    skip: tuple[str, ...],
    show: int,
    device: str,
    precision: str,
    backend: str,
    threads: int | None,
) -> Evaluation:
    from coda_deploy.data import open_source
    from coda_deploy.evaluate import Inception, Metrics, Perceptual, evaluate, open_subject
    from coda_deploy.evaluate.devices import network_device
    from coda_deploy.evaluate.run import check_same_spec
    from coda_deploy.evaluate.similarity import require_ssim

    # What can fail fails before the first image: packages, weights, the data, then the tokenizers.
    if "ssim" not in skip:
        require_ssim()
    lpips, rfid = lpips or lpips_weights is not None, rfid or inception_weights is not None
    place = network_device(device) if lpips or rfid else None
    metrics = Metrics(
        ssim="ssim" not in skip,
        continuous="vae" not in skip,
        lpips=Perceptual(lpips_weights, place) if lpips and place else None,
        inception=Inception(inception_weights, place) if rfid and place else None,
        network_device=None if place is None else str(place),
    )
    source = open_source(data)
    with ExitStack() as stack:
        measured = stack.enter_context(
            open_subject(subject, device=device, precision=precision, backend=backend, threads=threads)
        )
        # The other one runs as it is by default: --precision and --backend are about the one that is measured.
        other = stack.enter_context(open_subject(against, device=device, threads=threads)) if against else None
        if other is not None:
            check_same_spec(measured, other)
        with progress("evaluating", total=len(source) if limit is None else min(limit, len(source))) as bar:
            return evaluate(
                measured,
                source,
                metrics=metrics,
                against=other,
                data=data,
                batch_size=batch,
                limit=limit,
                workers=workers,
                show=show if pictures else 0,
                progress=bar.advance,
            )


def _print(found: Evaluation) -> None:
    from coda_deploy.evaluate.rows import notes, quality_columns, quality_rows, scale_columns, scale_rows, summary

    click.echo(f"{found.about.path}: {summary(found)}")
    click.echo()
    table(quality_rows(found), columns=quality_columns(found))
    click.echo()
    table(scale_rows(found), columns=scale_columns(found))
    click.echo()
    click.echo(f"{found.bits_per_pixel:.4f} bits per pixel")
    for note in notes(found):
        click.echo(f"warning: {note}", err=True)
