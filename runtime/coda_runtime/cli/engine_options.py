"""What the commands that build engines share: the batch profiles as they are typed, and the memory of each as told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..format.profiles import profile_text
from .base import printable

if TYPE_CHECKING:
    from ..build.memory import PartMemory, ProfileMemory
    from ..format.manifest import Artifact

BATCH_HELP = "Batch profile, in images; repeatable: each batch runs in the one that fits best."


def tell_memory(parts: Sequence[PartMemory]) -> None:
    """Print on stderr what is known of the memory of engines before they are built."""
    click.echo("device memory of one execution context, by batch profile, estimated from the graph:", err=True)
    width = max(len(_name(part)) for part in parts)
    for part in parts:
        profiles = "; ".join(map(_profile, part.profiles))
        click.echo(printable(f"  {_name(part):<{width}}  {profiles}"), err=True)
    click.echo("  (fusion and tactics change it: what the library planned is told after the build)", err=True)


def _name(part: PartMemory) -> str:
    return f"{part.part} {part.precision}"


def _profile(memory: ProfileMemory) -> str:
    text = f"{profile_text(memory.profile)}: {megabytes(memory.io_bytes)} of input and output"
    if memory.activation_bytes is None:
        return text
    return f"{text}, about {megabytes(memory.activation_bytes)} to work in"


def profiles_cell(artifact: Artifact) -> str:
    """Return the batch profiles; of several each with what a context works in, where that is known."""
    from ..format.engine_key import EngineKey

    texts = [profile_text(profile) for profile in artifact.profiles]
    scratch = EngineKey.from_json(artifact.engine).scratch_bytes
    if len(texts) > 1 and scratch is not None and len(scratch) == len(texts):
        texts = [f"{text} ({megabytes(nbytes)})" for text, nbytes in zip(texts, scratch, strict=True)]
    return " ".join(texts)


def megabytes(count: int) -> str:
    """Format bytes as tables of artifacts do."""
    return f"{count / 1e6:.1f} MB"
