"""``--image-size`` and ``--schedule``: images of another size, and the scales for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from coda_runtime.errors import InputError
from coda_runtime.format.sizes import parse_scales, parse_size

F = TypeVar("F", bound=Callable[..., Any])


def size_options(function: F) -> F:
    """Decorate with both: ``image_size`` is a `Size` and ``schedule`` is `Scales`, or None where not given."""
    function = click.option(
        "--schedule",
        callback=_parsed(parse_scales),
        metavar="LIST",
        help="The scales, as 1,2,3,16 or 1x1,2x3,12x20; by default made for the size.",
    )(function)
    return click.option(
        "--image-size",
        callback=_parsed(parse_size),
        metavar="SIZE",
        help="Side of the images in pixels, as 512, or height and width, as 192x320.",
    )(function)


def _parsed(parse: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, str | None], object]:
    """Return the callback of an option that ``parse`` reads; its ``InputError`` is a wrong usage."""

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> object:
        try:
            return None if value is None else parse(value)
        except InputError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback
