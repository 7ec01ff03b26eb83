"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..loading import load
from ..tokenizer import Tokenizer

F = TypeVar("F", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", metavar="BUNDLE")
"""A bundle's folder or Hub id, passed as `bundle: str`."""

images_argument = click.argument(
    "images", metavar="IMAGES...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
"""Files and folders, passed as `images: tuple[Path, ...]`."""


def load_options(function: F) -> F:
    """Decorator: --device, --backend, --precision and what else `open_tokenizer` takes by name."""
    options = [
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option("--backend", default="auto", show_default=True, help="auto, or an engine library's name."),
        click.option("--precision", default="auto", show_default=True, help="auto (the bundle's), fp32, fp16 or bf16."),
        click.option("--provider", "providers", multiple=True, help="onnxruntime execution provider; repeatable."),
        click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads for one run."),
        click.option(
            "--allow-host-code", is_flag=True, help="Let version-compatible engines run code of theirs on the CPU."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def open_tokenizer(
    bundle: str,
    device: str,
    backend: str,
    precision: str,
    providers: tuple[str, ...],
    threads: int | None,
    allow_host_code: bool,
) -> Tokenizer:
    """`coda_runtime.load` with the values of `load_options`. Raises CodaError."""
    return load(bundle, device, backend, precision, providers or None, threads, allow_host_code=allow_host_code)
