"""``coda import-official``: a published checkpoint -> a tokenizer folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, print_json
from coda_runtime.cli.options import folders
from coda_runtime.errors import OutputError
from coda_runtime.io.counts import count


@coda_command(
    name="import-official",
    example="coda import-official --variant flux_v65536 --out tokenizer/\n"
    "coda import-official --variant flux_v65536 --revision COMMIT --out tokenizer/\n"
    "coda import-official coda-flux/ --variant flux_v65536 --out tokenizer/\n"
    "coda import-official someone/CODA@v1 --variant mar_v16384 --out tokenizer/",
)
@click.argument("source", required=False, metavar="[FOLDER|ORG/NAME]", shell_complete=folders)
@click.option("--variant", type=click.Choice(list(VARIANTS)), required=True, help="Published tokenizer to import.")
@click.option("--revision", help="Branch, tag or commit hash of the repository.  [default: main]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Tokenizer folder to write.")
@click.option("--force", is_flag=True, help="Replace a tokenizer that is in --out.")
@json_option
def command(source: str | None, variant: str, revision: str | None, out: Path, force: bool, as_json: bool) -> None:
    """Read an official CODA checkpoint (vae_ema.pth and quantizer_ema.pth) into a tokenizer folder.

    Without FOLDER it is downloaded from where CODA's authors publish it on the Hugging Face Hub; ORG/NAME or
    ORG/NAME@REVISION names another repository there. The two files must be in a subfolder named after the variant, or
    at the root. They are kept in the Hub's cache (HF_HOME); with HF_HUB_OFFLINE=1 only that cache is used.

    The files are read as tensors only, never as code; every key's name and shape is checked. Their SHA-256 and the
    commit are recorded in the folder's provenance.json and in the manifest of every bundle exported from it.
    """
    from coda_deploy.official import import_official

    if not force:
        _check_out(out)
    tokenizer = import_official(source, variant, revision=revision)
    tokenizer.save_pretrained(out)
    if as_json:
        sizes = {"num_tokens": tokenizer.spec.num_tokens, "vocab_size": tokenizer.spec.vocab_size}
        print_json({"out": str(out), "variant": variant, **sizes, "checkpoint": tokenizer.checkpoint})
        return
    click.echo(
        f"{out}: {variant}, {count(tokenizer.spec.num_tokens, 'token')} per image, "
        f"{count(tokenizer.spec.vocab_size, 'code')}"
    )
    _print_commit(tokenizer.checkpoint or {})


def _check_out(out: Path) -> None:
    """Raise ``OutputError`` where a tokenizer would be replaced, which may have been trained for days."""
    from coda_deploy.tokenizer.storage import CONFIG_NAME, WEIGHTS_NAME

    if found := [name for name in (CONFIG_NAME, WEIGHTS_NAME) if (out / name).exists()]:
        raise OutputError(f"{out} holds {found[0]} already: give --force to replace it, or another --out")


def _print_commit(checkpoint: dict[str, Any]) -> None:
    if "commit" in checkpoint:
        click.echo(f"to get exactly this again: {checkpoint['hub']}@{checkpoint['commit']}")
