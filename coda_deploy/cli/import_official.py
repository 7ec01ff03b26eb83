"""``coda import-official``: a published checkpoint -> a tokenizer folder."""

from __future__ import annotations

from pathlib import Path

import click

from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.cli.base import command as coda_command


@coda_command(name="import-official", example="coda import-official coda-flux/ --variant flux_v65536 --out tokenizer/")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--variant", type=click.Choice(list(VARIANTS)), required=True, help="Which published tokenizer it is.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Tokenizer folder to write.")
def command(folder: Path, variant: str, out: Path) -> None:
    """Read an official CODA checkpoint (vae_ema.pth and quantizer_ema.pth) into a tokenizer folder.

    The files are read as tensors only, never as code; every key's name and shape is checked.
    """
    from coda_deploy.official import import_official

    tokenizer = import_official(folder, variant)
    tokenizer.save_pretrained(out)
    click.echo(f"{out}: {variant}, {tokenizer.spec.num_tokens} tokens an image, {tokenizer.spec.vocab_size} codes")
