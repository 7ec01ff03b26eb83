"""`coda tokens`: convert."""

from __future__ import annotations

import click

from ..io.counts import count
from .base import command as coda_command
from .base import debug_option, json_option, one_line_errors, print_json, progress
from .options import folders

_EXAMPLE = """coda tokens convert tokens --to npy --out mapped
coda tokens convert tokens --to webdataset --out tars"""


class _Group(click.Group):
    """Errors of the commands in one line, also where they come from finding one."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        with one_line_errors(ctx):
            return super().invoke(ctx)


command = _Group(
    "tokens",
    help="Work with folders that `coda tokenize` wrote.",
    params=[debug_option()],
    epilog="\b\nExample:\n" + "\n".join(f"  {line}" for line in _EXAMPLE.splitlines()),
)


@coda_command(name="convert", example=_EXAMPLE)
@click.argument("tokens", shell_complete=folders)
@click.option("--to", "form", type=click.Choice(["npy", "webdataset"]), required=True, help="What to write.")
@click.option("--out", required=True, type=click.Path(), help="The folder to write, new or empty.")
@click.option(
    "--dtype",
    type=click.Choice(["int32", "uint16"]),
    default="int32",
    show_default=True,
    help="Of the ids; uint16 takes half, for vocabularies up to 65536.",
)
@json_option
def convert(tokens: str, form: str, out: str, dtype: str, as_json: bool) -> None:
    """Write a folder of tokens as one .npy file to map into memory, or as WebDataset's tar files.

    Each row is written once and checked against the manifest; DST appears when all of it is there.
    """
    from ..bulk.conversion import convert as run

    before = 0
    with progress("converting", 1) as bar:

        def report(done: int, total: int) -> None:
            nonlocal before
            bar.advance((done - before) / max(1, total))
            before = done

        rows = run(tokens, out, form, dtype=dtype, report=report)
    if as_json:
        print_json({"out": out, "rows": rows, "format": form, "dtype": dtype})
    else:
        click.echo(f"{out}: {count(rows, 'row')}")


command.add_command(convert)
