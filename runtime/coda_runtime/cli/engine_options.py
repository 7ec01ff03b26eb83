"""What the commands that build engines share: the batch profiles as they are typed, and the memory of each as told."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..build.memory import PartMemory, ProfileMemory
from ..format.profiles import profile_text
from .base import printable

BATCH_HELP = "Batch profile, in images; repeatable: each batch runs in the one that fits best."


def tell_memory(parts: Sequence[PartMemory]) -> None:
    """Print on stderr what is known of the memory of engines before they are built."""
    click.echo("device memory of one execution context, by batch profile, estimated from the graph:", err=True)
    width = max(len(_name(part)) for part in parts)
    for part in parts:
        profiles = "; ".join(map(_profile, part.profiles))
        click.echo(printable(f"  {_name(part):<{width}}  {profiles}"), err=True)
    click.echo("  (fusion and tactics change it; an engine tells its own once it is loaded on its GPU)", err=True)


def _name(part: PartMemory) -> str:
    return f"{part.part} {part.precision}"


def _profile(memory: ProfileMemory) -> str:
    text = f"{profile_text(memory.profile)}: {megabytes(memory.io_bytes)} of input and output"
    if memory.activation_bytes is None:
        return text
    return f"{text}, about {megabytes(memory.activation_bytes)} to work in"


def megabytes(count: int) -> str:
    """Format bytes as tables of artifacts do."""
    return f"{count / 1e6:.1f} MB"
