"""The images that a command was given: files as they are, folders searched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ..errors import ImageError, InputError, one_line
from ..format.color import STORED
from ..format.sizes import Size, shape_of
from ..io.counts import count, plural
from ..io.filenames import utf8_name
from ..io.image_files import expected_suffixes, find_images
from .base import printable, warn

if TYPE_CHECKING:
    from ..images import Pixels

_NAMED = 20


@dataclass(frozen=True)
class Source:
    """An image file and the relative name, with forward slashes, that it goes by in results."""

    path: Path
    name: str


def collect(paths: Sequence[Path]) -> list[Source]:
    """Find every image among files and folders, folders in sorted order; tell on stderr what folders have beside.

    Raises ImageError for a missing or empty one.
    """
    out: list[Source] = []
    for path in paths:
        if path.is_dir():
            out += _search(path)
        elif path.exists():
            inside = not path.is_absolute() and ".." not in path.parts
            out.append(Source(path, utf8_name(path.as_posix() if inside else path.name)))
        else:
            raise ImageError(f"there is no file or folder {str(path)!r}; check the path")
    return out


class SourceReader:
    """Reads images in pieces, at the tokenizer's size; those that cannot be read end it, or are kept in `skipped`."""

    def __init__(self, sources: Sequence[Source], size: Size, *, skip_bad: bool, color: str = STORED) -> None:
        from ..images import IgnoredProfiles

        self._sources, self._size, self._skip_bad, self._color = sources, size, skip_bad, color
        self._ignored = IgnoredProfiles()
        self.skipped: list[tuple[str, str]] = []
        """(name, reason) of each image that was left out."""

    def read(self, start: int, many: int) -> tuple[list[Source], Pixels]:
        """Read `many` sources from `start` on: those that can be read, and their pixels, uint8 [n,H,W,3].

        Raises ImageError, in the end also where no image at all can be read.
        """
        from ..images import Batches

        part = self._sources[start : start + many]
        batches = Batches([source.path for source in part], self._size, self._color, ignored=self._ignored)
        tried = batches.try_each(slice(0, len(part)))
        found = [(source, image) for source, image in zip(part, tried, strict=True) if isinstance(image, np.ndarray)]
        bad = [(source, image) for source, image in zip(part, tried, strict=True) if isinstance(image, ImageError)]
        if bad and not self._skip_bad:
            raise ImageError(f"{bad[0][1]} (--skip-bad leaves such images out)") from bad[0][1]
        self.skipped += [(source.name, one_line(error, limit=None)) for source, error in bad]
        if len(self.skipped) == len(self._sources):
            name, reason = self.skipped[0]
            raise ImageError(f"none of {count(len(self._sources), 'image')} can be read; the first, {name}: {reason}")
        pixels = [image for _, image in found]
        shape = (0, *shape_of(self._size), 3)
        return [source for source, _ in found], np.stack(pixels) if pixels else np.empty(shape, np.uint8)

    def to_json(self) -> dict[str, object]:
        """Return what was left out and how colours were read, as every command's JSON has it."""
        told = [{"name": name, "reason": reason} for name, reason in self.skipped]
        return {
            "num_skipped": len(told),
            "skipped": told,
            "color": self._color,
            "num_profiles_ignored": self._ignored.count,
        }

    def tell(self) -> None:
        """Name on stderr what was left out, the first so many, and count the colour profiles that were ignored."""
        warn(self._ignored.warning())
        for name, reason in self.skipped[:_NAMED]:
            click.echo(f"skipped {printable(name)}: {printable(reason)}", err=True)
        if self.skipped:
            more = f", {len(self.skipped) - _NAMED} of them not named here" if len(self.skipped) > _NAMED else ""
            number = len(self.skipped)
            were = plural(number, "was", "were")
            warn(f"{count(number, 'image')} could not be read and {were} skipped{more}")


def keep_sources(sources: Sequence[Source], targets: Iterable[Path]) -> None:
    """Raise InputError if writing the targets would overwrite one of the images."""
    taken = {os.path.realpath(source.path) for source in sources}
    for target in targets:
        if os.path.realpath(target) in taken:
            raise InputError(
                f"{target} is one of the images, and writing there would overwrite it; choose another --out"
            )


def warn_of_omitted(folder: Path | None) -> None:
    """Tell on stderr what of a folder of images is left out, for commands whose library searches it."""
    if folder is not None and folder.is_dir():
        warn(find_images(folder).omitted.warning(folder))


def keep_existing(folder: Path, names: Iterable[str], *, force: bool) -> None:
    """Raise InputError if writing files of these names would replace one that is there, unless that is wanted.

    A result goes by the name of the image that it was made of, so the folder of those images holds it too.
    """
    there = [] if force else [name for name in names if os.path.lexists(folder / name)]
    if there:
        more = f" and {len(there) - 1} more of the results' names" if len(there) > 1 else ""
        raise InputError(
            f"{folder} holds {utf8_name(there[0])!r}{more} already; choose another --out, or replace with --force"
        )


def keep_file(file: Path | None, *, force: bool, option: str = "--out") -> None:
    """Raise InputError if writing this file would replace one that holds something, unless that is wanted.

    Whatever a command writes may have taken hours: the tokens of a data set, the speed before a change.
    """
    if file is not None and not force and file.is_file() and file.stat().st_size:
        raise InputError(f"{file} exists already; choose another {option}, or replace it with --force")


def keep_apart(out: Path, given: Iterable[Path], sources: Iterable[Source]) -> None:
    """Raise InputError if results in `out` would be among the images when the folders `given` are searched again."""
    folders = [path for path in given if path.is_dir()]
    holding = {parent for folder in {source.path.parent for source in sources} for parent in (folder, *folder.parents)}
    searched = {os.path.realpath(path) for path in holding if any(path.is_relative_to(folder) for folder in folders)}
    real = Path(os.path.realpath(out))
    if not searched.isdisjoint(map(str, (real, *real.parents))):
        raise InputError(f"{out} is in a folder of the images, which the results would be among; choose another --out")


def _search(folder: Path) -> list[Source]:
    found = find_images(folder)
    if not found.images:
        raise ImageError(
            f"the folder {str(folder)!r} has no images{found.left_out()}; expected files ending in "
            f"{expected_suffixes()}"
        )
    warn(found.omitted.warning(folder))
    return [Source(folder / name, utf8_name(name)) for name in found.images]
