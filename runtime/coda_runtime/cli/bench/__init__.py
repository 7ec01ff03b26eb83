"""`coda bench`: run, report, compare, ab, convert."""

from __future__ import annotations

import click

from ..base import debug_option, one_line_errors
from .compare import ab, compare
from .convert import convert
from .report import report
from .run import run

_EXAMPLE = """coda bench run bundle --batch 1,8 --out results.json
coda bench report results.json --out report.html
coda bench compare before.json after.json
coda bench ab old-bundle new-bundle"""


class _Group(click.Group):
    """Errors of the commands in one line, also where they come from finding one."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        with one_line_errors(ctx):
            return super().invoke(ctx)


command = _Group(
    "bench",
    help="Measure a bundle's speed on this machine, show it, compare two measurements.",
    params=[debug_option()],
    epilog="\b\nExample:\n" + "\n".join(f"  {line}" for line in _EXAMPLE.splitlines()),
)
for _command in (run, report, compare, ab, convert):
    command.add_command(_command)
