"""``coda train``: images and a continuous VAE -> a tokenizer folder."""

from __future__ import annotations

import os
from pathlib import Path

import click

from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, print_json, progress

# Latents that --latent-warmup caches where the configuration names no number.
WARMUP_IMAGES = 2048


@coda_command(
    example=(
        "coda train --config flux_v65536 --data imagenet/train --out tokenizer/\n"
        "coda train --config my.toml --vae vae/ --data photos/ --out tokenizer/ --resume\n"
        "coda train --config mar_v16384 --vae vae/ --data 'shards/train-{000..146}.tar' --out tokenizer/"
        " --set optim.batch=8\n"
        "torchrun --nproc-per-node 8 --no-python coda train --config flux_v65536 --data imagenet/train --out tokenizer/"
    )
)
@click.option("--config", "config_name", required=True, help="mar_v16384, flux_v65536, sample, or a TOML file.")
@click.option("--data", help="Image folder, WebDataset shards, hf:owner/name[@split], or .npy.")
@click.option("--out", type=click.Path(path_type=Path), help="Tokenizer folder to write.")
@click.option("--vae", help="The continuous VAE: a diffusers folder, a hub id, or MAR's kl16.safetensors.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; start one where there is none.")
@click.option("--latent-warmup", type=click.IntRange(0), metavar="STEPS", help="Train the quantizer on latents first.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change one setting; repeatable. --show-config lists them all.",
)
@click.option("--show-config", is_flag=True, help="Print every setting with its value, and do nothing.")
@json_option
def command(
    config_name: str,
    data: str | None,
    out: Path | None,
    vae: str | None,
    resume: bool,
    latent_warmup: int | None,
    overrides: tuple[str, ...],
    show_config: bool,
    as_json: bool,
) -> None:
    """Adapt a continuous VAE into a discrete tokenizer.

    Writes checkpoints, each a tokenizer folder itself, under OUT/checkpoints, sample grids under OUT/pictures, every
    figure to OUT/log.jsonl, and at the end the tokenizer to OUT. SIGTERM and Ctrl-C save and stop; --resume goes on.
    A configuration with LPIPS reads VGG-16, which `coda weights lpips` brings.
    """
    from coda_deploy.train.config import read_config

    settings = list(overrides)
    if latent_warmup is not None:
        settings.append(f"warmup.steps={latent_warmup}")
        if not any(text.startswith("warmup.images") for text in settings):
            images = read_config(config_name).warmup.images or WARMUP_IMAGES
            settings.append(f"warmup.images={images if latent_warmup else 0}")
    config = read_config(config_name, settings)
    if show_config:
        click.echo(config.to_toml(), nl=False)
        return
    # Here, since --show-config needs neither.
    if data is None or out is None:
        raise click.UsageError(f"Missing option '{'--data' if data is None else '--out'}'.")
    with progress("loading PyTorch", total=None):
        from coda_deploy.train.trainer import StoppedError, train

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun has started
    try:
        figures = train(config, data, out, vae=vae, resume=resume)
    except StoppedError as stopped:
        if first:
            click.echo(f"stopped: {stopped}", err=True)
        click.get_current_context().exit(128 + stopped.signal)
    if not first:
        return
    if as_json:
        print_json({"out": str(out), **figures})
        return
    if figures:  # none where somebody has removed the log
        click.echo(
            f"{out}: {figures['step']:.0f} steps, {figures['psnr']:.2f} dB on training images, "
            f"{figures['utilization']:.1%} of the codes in use"
        )
    click.echo(f"next:  coda eval {out} --data IMAGES\n       coda export {out} --out bundle/")
