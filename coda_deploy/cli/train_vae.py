"""``coda train-vae``: images -> a continuous VAE, which ``coda train --vae`` makes a tokenizer of."""

from __future__ import annotations

from pathlib import Path

import click

from coda_deploy.cli.training import carry_out, given, settings, training_options
from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, progress
from coda_runtime.cli.options import folders
from coda_runtime.io.counts import count


@coda_command(
    name="train-vae",
    example=(
        "coda train-vae --data photos/ --out vae/\n"
        "coda train-vae --data photos/ --out vae/ --resume\n"
        "coda train-vae --data photos/ --vae vae/ --out better/ --set optim.lr=3e-4\n"
        "coda train-vae --data photos/ --out vae/ --set loss.lpips=0 --set vae.image_size=64\n"
        "coda train-vae --show-config > my.toml"
    ),
)
@click.option(
    "--config",
    "config_name",
    default="photos",
    show_default=True,
    help="Configuration: photos, sample, or a TOML file.",
)
@click.option(
    "--vae",
    shell_complete=folders,
    help="A VAE to start from, with the configuration's architecture: a folder or hub id.",
)
@training_options("VAE folder, as diffusers has it,")
@json_option
def command(
    config_name: str,
    vae: str | None,
    data: str | None,
    out: Path | None,
    resume: bool,
    overrides: tuple[str, ...],
    color: str | None,
    show_config: bool,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Train a continuous VAE on your own images, if you have none to adapt.

    Writes checkpoints, each a complete VAE folder, to OUT/checkpoints, reconstructions of four images to OUT/pictures,
    metrics to OUT/log.jsonl, and at the end the VAE to OUT: a diffusers AutoencoderKL that `coda train --vae OUT`
    takes. SIGTERM and Ctrl-C save and stop; --resume continues. LPIPS needs VGG-16, which `coda weights lpips`
    fetches; --set loss.lpips=0 trains without it.
    """
    from coda_deploy.train.vae.config import read_config

    config = read_config(config_name, settings(overrides, color))
    if show_config:
        click.echo(config.to_toml(), nl=False)
        return
    images, folder = given(data, out)
    with progress("loading PyTorch", total=None):
        from coda_deploy.train.vae.trainer import train_vae
    carry_out(
        lambda: train_vae(config, images, folder, vae=vae, resume=resume, skip_bad=skip_bad),
        folder,
        as_json=as_json,
        summary=lambda metrics: f"{count(round(metrics['step']), 'step')}, {metrics['psnr']:.2f} dB on training images",
        following=f"next:  coda train --config CONFIG --vae {folder} --data {images} --out tokenizer/",
    )
