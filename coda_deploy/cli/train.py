"""``coda train``: images and a continuous VAE -> a tokenizer folder."""

from __future__ import annotations

from pathlib import Path

import click

from coda_deploy.cli.sizes import size_options
from coda_deploy.cli.training import carry_out, given, settings, training_options
from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, progress
from coda_runtime.cli.options import folders
from coda_runtime.format.sizes import Scales, Size, plain
from coda_runtime.io.counts import count

# Latents that --latent-warmup caches where the configuration names no number.
WARMUP_IMAGES = 2048


@coda_command(
    example=(
        "coda train --config flux_v65536 --data imagenet/train --out tokenizer/\n"
        "coda train --config my.toml --vae vae/ --data photos/ --out tokenizer/ --resume\n"
        "coda train --config mar_v16384 --vae vae/ --data 'shards/train-{000..146}.tar' --out tokenizer/"
        " --set optim.batch=8\n"
        "coda train --config sample --init tokenizer/ --image-size 192x320 --data photos/ --out wide/\n"
        "torchrun --nproc-per-node 8 --no-python coda train --config flux_v65536 --data imagenet/train --out tokenizer/"
    )
)
@click.option(
    "--config", "config_name", required=True, help="Configuration: mar_v16384, flux_v65536, sample, or a TOML file."
)
@training_options("Tokenizer folder")
@click.option(
    "--vae",
    shell_complete=folders,
    help="The VAE: a diffusers folder, a hub id, an LDM file, or python:MODULE:FUNCTION.",
)
@click.option(
    "--init",
    shell_complete=folders,
    help="A tokenizer to start from instead, its weights kept: a folder or a hub id.",
)
@size_options
@click.option("--latent-warmup", type=click.IntRange(0), metavar="STEPS", help="First train the quantizer on latents.")
@json_option
def command(
    config_name: str,
    data: str | None,
    out: Path | None,
    vae: str | None,
    init: str | None,
    image_size: Size | None,
    schedule: Scales | None,
    resume: bool,
    latent_warmup: int | None,
    overrides: tuple[str, ...],
    color: str | None,
    show_config: bool,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Adapt a continuous VAE into a discrete tokenizer.

    Writes checkpoints, each a complete tokenizer folder, to OUT/checkpoints, sample grids to OUT/pictures, metrics to
    OUT/log.jsonl, and at the end the tokenizer to OUT. SIGTERM and Ctrl-C save and stop; --resume continues. A
    configuration with LPIPS needs VGG-16, which `coda weights lpips` fetches.
    """
    from coda_deploy.train.config import read_config
    from coda_runtime.codes.metrics import percent

    changed = [*settings(overrides, color), *_sizes(image_size, schedule)]
    if latent_warmup is not None:
        changed.append(f"warmup.steps={latent_warmup}")
        if not any(text.startswith("warmup.images") for text in changed):
            cached = read_config(config_name).warmup.images or WARMUP_IMAGES
            changed.append(f"warmup.images={cached if latent_warmup else 0}")
    config = read_config(config_name, changed)
    if show_config:
        click.echo(config.to_toml(), nl=False)
        return
    images, folder = given(data, out)
    with progress("loading PyTorch", total=None):
        from coda_deploy.train.trainer import train
    carry_out(
        lambda: train(config, images, folder, vae=vae, init=init, resume=resume, skip_bad=skip_bad),
        folder,
        as_json=as_json,
        summary=lambda metrics: (
            f"{count(round(metrics['step']), 'step')}, {metrics['psnr']:.2f} dB on training images, "
            f"{percent(metrics.get('utilization', 0.0), 1)} of the codes in use"
        ),
        following=f"next:  coda eval {folder} --data IMAGES\n       coda export {folder} --out bundle/",
    )


def _sizes(image_size: Size | None, schedule: Scales | None) -> list[str]:
    """Return what --image-size and --schedule change: a configuration's own schedule is for its own size."""
    changed = []
    if image_size is not None:
        changed += [f"tokenizer.image_size={plain(image_size)}", "tokenizer.scales=[]"]
    if schedule is not None:
        changed.append(f"tokenizer.scales={plain(schedule)}")
    return changed
