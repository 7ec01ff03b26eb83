"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from ..backends.base import LoadOptions

F = TypeVar("F", bound=Callable[..., Any])


def folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete folders: what may be a Hub id or a URL is no `click.Path`, and a folder most often."""
    return [CompletionItem(incomplete, type="dir")]


bundle_argument = click.argument("bundle", metavar="BUNDLE", shell_complete=folders)
"""A bundle's folder or Hub id, passed as `bundle: str`."""

images_argument = click.argument(
    "images", metavar="IMAGES...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
"""Files and folders, passed as `images: tuple[Path, ...]`."""


def force_option(what: str) -> Callable[[F], F]:
    """Add --force, passed as `force: bool`, for `what` the command would otherwise refuse to replace."""
    return click.option("--force", is_flag=True, help=f"Replace {what}.")


def skip_bad_option(*, default: bool) -> Callable[[F], F]:
    """Add --skip-bad and --no-skip-bad, passed as `skip_bad: bool`.

    The default is to skip where images are a data set, of which the command tells something as a whole, and to end
    where each image has a result of its own.
    """
    return click.option(
        "--skip-bad/--no-skip-bad",
        default=default,
        show_default=True,
        help="Images that cannot be read: leave out, named and counted, or end at the first.",
    )


def load_options(*, but: Collection[str] = ()) -> Callable[[F], F]:
    """Add an option for each field of LoadOptions that has a `help`, passed together as `options: LoadOptions`.

    The fields in `but` get none and keep their defaults, for a command with an option of its own or no use for them.
    """
    chosen = [field for field in _shown() if field.name not in but]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_options(*args: Any, **settings: Any) -> Any:
            given = {field.name: settings.pop(field.name) for field in chosen}
            for field in chosen:
                if field.metadata.get("repeatable"):
                    given[field.name] = given[field.name] or field.default
            return function(*args, options=LoadOptions(**given), **settings)

        decorated: Any = with_options
        for field in reversed(chosen):
            decorated = _option(field)(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def typed_load_options(context: click.Context) -> list[str]:
    """Return those options of `load_options` that stand on the command line, such as "--device"."""
    typed = (field for field in _shown() if context.get_parameter_source(field.name) is ParameterSource.COMMANDLINE)
    return [_name(field) for field in typed]


def load_option_help(name: str, more: str) -> str:
    """Return the help of that field of LoadOptions with ``more`` added, for a command with an option of its own."""
    (help_text,) = (field.metadata["help"] for field in _shown() if field.name == name)
    return f"{help_text.removesuffix('.')}; {more}."


def _shown() -> list[Field[Any]]:
    return [field for field in fields(LoadOptions) if "help" in field.metadata]


def _name(field: Field[Any]) -> str:
    return str(field.metadata.get("option", f"--{field.name.replace('_', '-')}"))


def _option(field: Field[Any]) -> Callable[[F], F]:
    metadata = field.metadata
    settings: dict[str, Any] = {"help": metadata["help"]}
    if isinstance(field.default, bool):
        settings |= {"is_flag": True}
    elif metadata.get("repeatable"):
        settings |= {"multiple": True}
    else:
        settings |= {"default": field.default, "show_default": field.default is not None}
    if "choices" in metadata:
        settings |= {"type": click.Choice(metadata["choices"])}
    if "range" in metadata:
        settings |= {"type": click.IntRange(*metadata["range"])}
    return click.option(_name(field), field.name, **settings)
