"""``coda eval``: what a tokenizer or a bundle keeps of images, in figures and examples."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coda_runtime.backends.base import LoadOptions
from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import footnote, json_option, print_json, printable, progress, table, warn
from coda_runtime.cli.options import folders, force_option, load_options, skip_bad_option
from coda_runtime.cli.sources import keep_file
from coda_runtime.errors import InputError
from coda_runtime.io.atomic_files import staged_file
from coda_runtime.io.image_files import has_image_suffix

if TYPE_CHECKING:
    from coda_deploy.evaluate import Evaluation, Generated

SKIPPABLE = ("ssim", "ms-ssim", "vae")


@contextmanager
def output(path: Path | None, option: str, *, force: bool) -> Iterator[Path | None]:
    """Yield a path to write a result to, renamed at the end; opened first, so that it fails before the work."""
    if path is None:
        yield None
        return
    if path.exists() and (has_image_suffix(path.name) or path.suffix.lower() in {".npy", ".tar"}):
        raise InputError(f"{path} already exists and looks like image data, not a result: name another file")
    keep_file(path, force=force, option=option)
    with staged_file(path) as beside:
        yield beside


@coda_command(
    name="eval",
    example="coda eval tokenizer/ --data photos/\n"
    "coda eval bundle/ --data photos/ --against tokenizer/ --report eval.html\n"
    "coda weights lpips dists && coda eval tokenizer/ --data photos/ --all\n"
    "coda eval tokenizer/ --data imagenet/val --rfid --lpips --batch 32 --workers 8 --json\n"
    "coda eval official:flux_v65536 --data imagenet/val --rfid\n"
    "coda eval bundle/ --data photos/ --generated made/ --npz made.npz",
)
@click.argument("target", metavar="TOKENIZER_OR_BUNDLE", shell_complete=folders)
@click.option(
    "--data",
    required=True,
    shell_complete=folders,
    help="Folder of images, .tar shards, a .npy array, or hf:owner/name@split.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Use only this many images, evenly spread over the data.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images per batch.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read images.")
@click.option("--all", "every", is_flag=True, help="Every metric; rFID only if Inception's weights are available.")
@click.option("--lpips", is_flag=True, help="LPIPS over VGG-16; `coda weights lpips` fetches its weights.")
@click.option("--lpips-alex", is_flag=True, help="LPIPS over AlexNet; weights as for --lpips.")
@click.option("--dists", is_flag=True, help="DISTS; `coda weights dists` fetches its weights.")
@click.option("--ssimulacra2", is_flag=True, help="SSIMULACRA 2; 0.1 to 0.2 s per image.")
@click.option(
    "--rfid", is_flag=True, help="Fréchet distance to the originals, rFID or gFID; needs Inception's weights."
)
@click.option(
    "--lpips-weights", type=click.Path(path_type=Path), help="VGG-16 weights; implies --lpips unless --dists is given."
)
@click.option("--lpips-alex-weights", type=click.Path(path_type=Path), help="AlexNet weights; implies --lpips-alex.")
@click.option("--inception-weights", type=click.Path(path_type=Path), help="Inception weights; implies --rfid.")
@click.option(
    "--against",
    metavar="OTHER",
    shell_complete=folders,
    help="Another tokenizer or bundle to compare tokens and metrics with.",
)
@click.option(
    "--generated",
    shell_complete=folders,
    help="Images that a generator made, as --data: measure these beside --data, and no reconstructions.",
)
@click.option(
    "--npz",
    type=click.Path(path_type=Path),
    help="With --generated: a .npz of its images to write, arr_0, as ADM's evaluation suite reads it.",
)
@click.option(
    "--skip", type=click.Choice(SKIPPABLE), multiple=True, help="Skip a metric that is on by default; repeatable."
)
@click.option("--report", type=click.Path(path_type=Path), help="HTML report to write.")
@click.option(
    "--show", type=click.IntRange(0, 100), default=8, show_default=True, help="Worst and best images in the report."
)
@click.option("--per-image", type=click.Path(path_type=Path), help="JSON Lines file to write, one line per image.")
@force_option("files that are there")
@skip_bad_option(default=True)
@load_options()
@json_option
def command(
    target: str,
    data: str,
    report: Path | None,
    per_image: Path | None,
    generated: str | None,
    npz: Path | None,
    force: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Encode and decode images with a tokenizer (in PyTorch) or a bundle, and measure the reconstructions.

    Always: PSNR, SSIM, MS-SSIM, use of the codebook, bits per pixel, and the same for the continuous VAE where it is
    available. On request: metrics that need published weights or more time (LPIPS, DISTS, SSIMULACRA 2, rFID). Every
    image is first resized by its shorter side and centre cropped.

    With --generated the images of a generator are encoded instead, and compared with --data: use of the codebook of
    both, and with --rfid the Fréchet distance between them, gFID.

    A tokenizer runs in fp32 on --device with --threads; the other loading options apply to bundles only.
    """
    if generated is not None:
        _check_generated(report, per_image, settings)
        with output(npz, "--npz", force=force) as file:
            compared = _evaluate_generated(target, generated, data, file, **settings)
        if as_json:
            print_json({**compared.to_json(), "npz": None if npz is None else str(npz)})
        else:
            _print_generated(compared, npz)
        return
    if npz is not None:
        raise InputError("--npz is for the images of --generated: give both, or leave it out")
    if report is not None and per_image is not None and os.path.realpath(report) == os.path.realpath(per_image):
        raise InputError(f"--report and --per-image both name {report}: give each a file of its own")
    with ExitStack() as stack:
        page = stack.enter_context(output(report, "--report", force=force))
        lines = stack.enter_context(output(per_image, "--per-image", force=force))
        found = _evaluate(target, data, page is not None, **settings)
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
    target: str,
    data: str,
    with_images: bool,
    *,
    limit: int | None,
    batch: int,
    workers: int,
    against: str | None,
    show: int,
    skip_bad: bool,
    options: LoadOptions,
    **choice: Any,
) -> Evaluation:
    from coda_deploy.data import open_source
    from coda_deploy.evaluate import Choice, evaluate, make_metrics, open_target
    from coda_deploy.evaluate.run import check_same_spec

    # What can fail fails before the first image: packages, weights, the data, then the tokenizers.
    metrics = make_metrics(Choice(**choice), options.device)
    source = open_source(data, warn, color=options.color)
    with ExitStack() as stack:
        measured = stack.enter_context(open_target(target, **options.arguments()))
        # The other one runs as it is by default: --precision and the like are about the one that is measured.
        other = None
        if against:
            other = stack.enter_context(open_target(against, device=options.device, threads=options.threads))
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
                skip_bad=skip_bad,
                color=options.color,
                show=show if with_images else 0,
                progress=bar.advance,
            )


def _check_generated(report: Path | None, per_image: Path | None, settings: dict[str, Any]) -> None:
    """Raise InputError for what compares an image with its reconstruction, which a generated image has none of."""
    given = {"--report": report, "--per-image": per_image, "--against": settings["against"]}
    named = ("lpips", "lpips_alex", "dists", "ssimulacra2", "lpips_weights", "lpips_alex_weights")
    given |= {f"--{name.replace('_', '-')}": settings[name] for name in named}
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: about reconstructions, of which --generated makes none; leave it out")


def _evaluate_generated(
    target: str,
    generated: str,
    data: str,
    npz: Path | None,
    *,
    limit: int | None,
    batch: int,
    workers: int,
    skip_bad: bool,
    options: LoadOptions,
    rfid: bool,
    inception_weights: Path | None,
    **_: Any,
) -> Generated:
    from coda_deploy.data import open_source
    from coda_deploy.evaluate import Choice, evaluate_generated, make_metrics, open_target

    asked = Choice(rfid=rfid, inception_weights=inception_weights, skip=SKIPPABLE)
    inception = make_metrics(asked, options.device).inception
    made, real = (open_source(where, warn, color=options.color) for where in (generated, data))
    total = len(made) + (len(real) if limit is None else min(limit, len(real)))
    with open_target(target, **options.arguments()) as measured, progress("evaluating", total=total) as bar:
        return evaluate_generated(
            measured,
            made,
            real,
            inception=inception,
            npz=npz,
            batch_size=batch,
            limit=limit,
            workers=workers,
            skip_bad=skip_bad,
            progress=bar.advance,
        )


def _print_generated(found: Generated, npz: Path | None) -> None:
    from coda_runtime.io.counts import count

    rows = [
        (name, f"{part.images:,}", f"{part.utilization:.4f}", f"{part.perplexity:.1f}")
        for name, part in (("generated", found.generated), ("data", found.data))
    ]
    table(rows, columns=("", "images", "share of the codes", "perplexity"))
    click.echo()
    click.echo("gFID was not asked for: --rfid" if found.gfid is None else f"gFID {found.gfid:.3f}")
    for part in (found.generated, found.data):
        for image in part.skipped[:20]:
            click.echo(f"skipped {printable(image.name)}: {printable(image.reason)}", err=True)
        if part.skipped:
            warn(f"{count(len(part.skipped), 'image')} could not be read and left out")
    for note in found.warnings:
        warn(note)
    if npz is not None:
        click.echo(f"written: {npz}")


def _print(found: Evaluation) -> None:
    from coda_deploy.evaluate.rows import (
        AGREEMENT_NOTE,
        notes,
        quality_columns,
        quality_rows,
        scale_columns,
        scale_rows,
        summary,
    )

    click.echo(f"{found.about.path}: {summary(found)}")
    click.echo()
    table(quality_rows(found), columns=quality_columns(found))
    click.echo()
    table(scale_rows(found), columns=scale_columns(found))
    if found.against:
        footnote(AGREEMENT_NOTE)
    click.echo()
    click.echo(f"{found.bits_per_pixel:.4f} bits per pixel")
    for note in notes(found):
        warn(note)
