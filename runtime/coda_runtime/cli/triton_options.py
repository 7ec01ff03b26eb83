"""--triton and what belongs to it, for the commands that make bundles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import InputError
from ..format.profiles import Batch
from ..triton.options import DEVICES, FORMATS
from .base import printable

if TYPE_CHECKING:
    from ..triton import Repository, RepositoryOptions

F = TypeVar("F", bound=Callable[..., Any])
TENSORRT = "tensorrt"
"""The engine library whose engines Triton serves."""

_OPTIONS = (
    click.option("--triton-format", type=click.Choice(FORMATS), help="Files to serve: engines if measured, or ONNX."),
    click.option("--triton-precision", metavar="NAME", help="Precision to serve; the bundle's default by default."),
    click.option("--triton-device", type=click.Choice(DEVICES), help="Where ONNX files run.  [default: gpu]"),
    click.option("--triton-max-batch", type=click.IntRange(1, 4096), help="Maximum images in a batch."),
)


@dataclass(frozen=True)
class TritonRequest:
    """A repository that is asked for: its folder and how the bundle is to be served."""

    repo: Path
    options: RepositoryOptions

    def check(self, bundle: Path, precisions: Sequence[str], batches: Sequence[Sequence[Batch]]) -> None:
        """Find what would fail once `bundle` is made; as `check_destination` and `check_request`."""
        from ..triton import check_destination, check_request

        check_destination(self.repo, bundle)
        check_request(self.options, precisions, batches)


def triton_options(function: F) -> F:
    """Add --triton and --triton-..., passed together as `triton: TritonRequest | None`."""
    from ..triton import RepositoryOptions

    @functools.wraps(function)
    def with_request(*args: Any, triton: Path | None, **settings: Any) -> Any:
        given = {name: settings.pop(f"triton_{name}") for name in ("format", "precision", "device", "max_batch")}
        chosen = {name: value for name, value in given.items() if value is not None}
        if triton is None and chosen:
            option = f"--triton-{min(chosen).replace('_', '-')}"
            raise InputError(f"{option} says how Triton is to serve, and no repository is requested: add --triton REPO")
        request = None if triton is None else TritonRequest(triton, RepositoryOptions(**chosen))
        return function(*args, triton=request, **settings)

    decorated: Any = with_request
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    repo = click.option(
        "--triton", metavar="REPO", type=click.Path(path_type=Path), help="Triton model repository to write."
    )
    return repo(decorated)  # type: ignore[no-any-return]


def write_if_asked(request: TritonRequest | None, bundle: str | Path) -> Repository | None:
    """Write the repository, and its notes on stderr. Raises as `write_repository` does."""
    from ..triton import write_repository

    if request is None:
        return None
    made = write_repository(bundle, request.repo, request.options)
    for note in made.notes:
        click.echo(f"triton: {printable(note)}", err=True)
    return made


def summary(made: Repository) -> str:
    """Return one line about a repository."""
    batches = ", ".join(
        f"{model} up to {size}" for model, size in made.max_batch.items() if model in ("encode", "decode")
    )
    return f"{made.folder}: Triton models from {made.format} files in {made.precision}, images in a batch: {batches}"
