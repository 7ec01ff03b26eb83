"""The `coda` group: commands by name, each imported only when it runs, so that `coda --help` costs nothing."""

from __future__ import annotations

import functools
from contextlib import suppress
from importlib import import_module, metadata
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..errors import CodaError, MissingDependencyError, missing_module
from .base import debug_option, one_line_errors

_GROUP = "coda.commands"

# name: what --help says. Each lives in the module of its name, as `command`.
_OWN = {
    "bench": "Measure, report and compare how fast a bundle is here.",
    "build": "Build TensorRT engines, or a Triton model repository.",
    "decode": "Turn tokens into images.",
    "doctor": "Report what is installed here, and what to install.",
    "encode": "Turn images into tokens.",
    "inspect": "Show what a bundle holds.",
    "pull": "Download a bundle from the Hugging Face Hub, checked.",
    "push": "Upload a bundle to the Hugging Face Hub, with a card.",
    "reconstruct": "Turn images into tokens and back, with their PSNR.",
    "serve": "Serve a bundle over REST and gRPC (Open Inference Protocol).",
    "site": "Write a page that runs a bundle in the browser.",
    "tokenize": "Turn many images into tokens in Parquet files, by Ray.",
    "tokens": "Convert tokens to one mapped array, or to WebDataset.",
    "tune": "Measure what runs a bundle fastest here, and record it.",
    "verify": "Check a bundle's files, and what it computes here.",
}
# Commands of coda-deploy, listed here so that help needs not import PyTorch, and shows them where it is missing.
_DEPLOY = {
    "demo": "Run everything once on sample photographs, with a report.",
    "eval": "Measure the quality of a tokenizer or a bundle.",
    "export": "Export a tokenizer to a bundle.",
    "import-official": "Turn a published CODA checkpoint into a tokenizer.",
    "train": "Train a tokenizer from a continuous VAE and images.",
    "train-vae": "Train a continuous VAE on images, for `coda train --vae`.",
    "weights": "Fetch the published networks that LPIPS and DISTS read.",
}
# What --help lists them under, in the order of a user's way; what another package brings stands under _OTHERS.
_SECTIONS = {
    "Start": ("demo", "doctor"),
    "Make a tokenizer": ("train-vae", "train", "import-official", "weights"),
    "Export": ("export", "build", "inspect", "verify"),
    "Run": ("encode", "decode", "reconstruct", "tune"),
    "Serve and bulk": ("serve", "tokenize", "tokens"),
    "Measure": ("bench", "eval"),
    "Share": ("site", "push", "pull"),
}
_OTHERS = "Of other packages"


class CodaGroup(click.Group):
    """Finds commands here and under the entry-point group `coda.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, those that need coda-deploy too."""
        return sorted({*_OWN, *_DEPLOY, *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises CodaError if its package is missing or broken."""
        if cmd_name in _OWN:
            found: object = import_module(f".{cmd_name}", __package__).command
        elif (plugin := _plugins().get(cmd_name)) is not None:
            found = _load(plugin)
        elif cmd_name in _DEPLOY:
            raise MissingDependencyError(
                f"`coda {cmd_name}` comes with coda-deploy, which is not installed", "coda-deploy"
            )
        else:
            return None
        if not isinstance(found, click.Command):
            raise CodaError(
                f"`coda {cmd_name}` is not a click command but {found!r}; reinstall the package it comes from"
            )
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; help and options of a missing one are not looked at."""
        if ctx.resilient_parsing:  # a shell asks what could be typed next, and nobody reads an error
            with suppress(CodaError):
                return super().resolve_command(ctx, args)
            return None, None, args
        with one_line_errors(ctx):
            return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with one_line_errors(ctx):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands in --help, by task, without importing any."""
        known = [name for names in _SECTIONS.values() for name in names]
        others = tuple(name for name in self.list_commands(ctx) if name not in known)
        width = max(map(len, (*known, *others)))
        for title, names in {**_SECTIONS, _OTHERS: others}.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([(f"{name:<{width}}", _short_help(name)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return names for the shell, without importing any command."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [CompletionItem(name, help=_short_help(name)) for name in names]


@functools.cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    return {plugin.name: plugin for plugin in metadata.entry_points(group=_GROUP)}


def _load(plugin: metadata.EntryPoint) -> object:
    try:
        return plugin.load()
    except ImportError as error:
        package = plugin.dist.name if plugin.dist else plugin.module
        raise missing_module(f"`coda {plugin.name}`", error) or CodaError(
            f"`coda {plugin.name}` does not start: {package} lacks something ({error}); install {package} again"
        ) from error


def _short_help(name: str) -> str:
    if name in _OWN:
        return _OWN[name]
    plugin = _plugins().get(name)
    if name in _DEPLOY:
        return _DEPLOY[name] if plugin else f"(needs coda-deploy) {_DEPLOY[name]}"
    return f"From {plugin.dist.name}." if plugin and plugin.dist else ""


@click.command(
    cls=CodaGroup,
    params=[debug_option()],
    epilog="\b\nExample:\n  coda encode bundle photos --out tokens.npz\n  coda decode bundle tokens.npz --out pictures",
)
@click.version_option(__version__, message="coda-runtime %(version)s")
def cli() -> None:
    """CODA image tokenizers: images to tokens and back."""
