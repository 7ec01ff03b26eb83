"""`coda verify`."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import click

from ..bundle import Bundle
from ..errors import ChecksumError, CodaError, InputError, MissingDependencyError
from ..hub import find_bundle
from .base import command as coda_command
from .base import json_option, print_json, progress, table
from .options import bundle_argument

_ONLY_CHECKSUMS = "only the checksums were checked; to measure parity again, give --tokenizer DIR"


@coda_command(name="verify", example="coda verify bundle\ncoda verify bundle --tokenizer tokenizer")
@bundle_argument
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The tokenizer folder BUNDLE was exported from.")
@click.option("--parity-images", type=click.Path(path_type=Path), help="Images to measure parity on.")
@json_option
def command(bundle: str, tokenizer: Path | None, parity_images: Path | None, as_json: bool) -> None:
    """Check every file of BUNDLE, reading all of it; then parity again where the tokenizer is at hand.

    Parity needs coda-deploy. It fails when a part falls under the floor of its precision.
    """
    if parity_images is not None and tokenizer is None:
        raise click.UsageError("--parity-images needs --tokenizer")
    opened = Bundle.open(find_bundle(bundle))
    files: list[dict[str, Any]] = []
    with progress("reading", len(opened.manifest.artifacts)) as bar:
        for name, problem in opened.check("always"):
            files.append({"file": name, "ok": problem is None, "problem": None if problem is None else str(problem)})
            bar.advance()
    broken = [entry for entry in files if not entry["ok"]]
    failure: CodaError | None = None
    parity: dict[str, Any] | None = None
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        failure = ChecksumError(f"{broken[0]['problem']}{more}")
    elif tokenizer is not None:
        parity = _measure(opened.folder, tokenizer, parity_images)
    if as_json:
        note = _ONLY_CHECKSUMS if parity is None else None
        report = {"bundle": str(opened.folder), "ok": failure is None, "files": files, "parity": parity, "note": note}
        print_json(report)
    else:
        table([("ok" if entry["ok"] else "BROKEN", entry["file"]) for entry in files])
        for name, numbers in (parity or {}).items():
            click.echo(f"parity {name}: {numbers}")
        if failure is None:
            click.echo("all files are whole" + (f"; {_ONLY_CHECKSUMS}" if parity is None else ", and parity holds"))
    if failure is not None:
        raise failure


def _measure(bundle: Path, tokenizer: Path, images: Path | None) -> dict[str, Any]:
    """{artifact file: its parity}. Raises CodaError when a floor is missed."""
    plugins = metadata.entry_points(group="coda.verify", name="parity")
    if not plugins:
        raise MissingDependencyError(
            "measuring parity needs coda-deploy, which is not here", "coda-deploy", package="coda-deploy"
        )
    for path in (tokenizer, images):
        if path is not None and not path.is_dir():
            raise InputError(f"there is no folder {str(path)!r}; check the path")
    return dict(next(iter(plugins)).load()(bundle, tokenizer, images))
