"""``--image-size`` and ``--schedule``: images of another size, and the scales for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from coda_runtime.errors import InputError
from coda_runtime.format.sizes import parse_scales, parse_size

F = TypeVar("F", bound=Callable[..., Any])


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 alone
    """What ``parse`` makes of the text; its ``InputError`` is a wrong usage."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except InputError as error:
            self.fail(str(error), param, ctx)


def size_options(function: F) -> F:
    """Decorate with both: ``image_size`` is a `Size` and ``schedule`` is `Scales`, or None where not given."""
    size, scales = _Parsed("size", parse_size), _Parsed("list", parse_scales)
    schedule_help = "The scales, as 1,2,3,16 or 1x1,2x3,12x20; by default made for the size."
    function = click.option("--schedule", type=scales, metavar="LIST", help=schedule_help)(function)
    size_help = "Side of the images in pixels, as 512, or height and width, as 192x320."
    return click.option("--image-size", type=size, metavar="SIZE", help=size_help)(function)
