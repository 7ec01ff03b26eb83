"""What a source of images is, and what is told of the images that it could not deliver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from coda_deploy.errors import DataError
from coda_runtime.errors import ImageError, InputError, one_line

T = TypeVar("T")


class ImageSource(Protocol):
    """A fixed sequence of images that can be asked for in any order, also from forked or spawned processes.

    The same index always gives the same pixels, in every process.
    """

    def __len__(self) -> int:
        """How many images there are, unreadable ones included."""
        ...

    def name(self, index: int) -> str:
        """Return what messages call an image: a path, ``shard.tar/member.jpg``, ``hf:owner/name[123]``."""
        ...

    def image(self, index: int) -> Image.Image:
        """Return one image upright and in RGB, in its own size; an ignored colour profile stays in its ``info``.

        Raises ``ImageError`` (or ``OSError``) for an image that cannot be used and is to be skipped, ``DataError``
        when the source itself is broken, which ends the run.
        """
        ...


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why in one line."""

    name: str
    reason: str


def attempt(source: ImageSource, index: int, cut: Callable[[Image.Image], T]) -> T | Skipped:
    """Return ``cut`` of one image, or why it has to be skipped. Raises ``DataError`` for a broken source."""
    try:
        return cut(source.image(index))
    except (ImageError, OSError) as error:
        return Skipped(source.name(index), one_line(error, limit=None))


def bad_image(skipped: Skipped) -> DataError:
    """Return the error for an image where none is to be skipped."""
    return DataError(f"{skipped.name} cannot be used: {skipped.reason} (--skip-bad leaves such images out)")


def printable(name: str) -> str:
    """Return a file's name without the surrogates for bytes that are not UTF-8, which no log or JSON can hold."""
    return name.encode(errors="replace").decode()


def check_whole(name: str, value: object, minimum: int) -> None:
    """Raise ``InputError`` unless ``value`` is a whole number of at least ``minimum``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise InputError(f"{name} must be a whole number, {minimum} or more, found {value!r}")
