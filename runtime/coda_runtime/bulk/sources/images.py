"""Image files, nested in any way; the label is the name of the folder that an image lies in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...io.filenames import utf8_name
from ...io.image_files import SUFFIXES
from ...io.remote import is_local
from .base import table
from .fetching import AT_ONCE, Fetched, read_local, read_remote, spread
from .matches import Matches

if TYPE_CHECKING:
    import pyarrow as pa


class ImageFiles:
    """Each file is an image."""

    def __init__(self, matches: Matches, label: str | None) -> None:
        if label not in (None, "folder"):
            raise InputError(f'label is {label!r}; for image files expected "folder", the name of the folder of each')
        self._matches = matches
        self._names = matches.ending(*SUFFIXES)
        self._label = label
        self.omitted = matches.omitted

    def files(self) -> dict[str, str]:
        return dict.fromkeys((self._matches.path(name) for name in self._names), "")

    def listing(self) -> pa.Table:
        labels = None
        if self._label is not None:
            labels = [utf8_name(PurePosixPath(name).parent.name) or None for name in self._names]
            if not any(labels):
                raise InputError(
                    f'label is "folder", and no image lies in a folder of {self._matches.root}; leave out --label, or '
                    "name the folder above"
                )
        return table(self._names, self.files(), labels)

    def reader(self, files: dict[str, str]) -> ImageFileReader:
        return ImageFileReader(self._matches.fs, self._matches.root, spread(list(files or self.files())))


@dataclass(frozen=True)
class ImageFileReader:
    """Reads whole files under the folder `root`. `others` are a few of them, to tell its failure from an image's."""

    fs: Any
    root: str
    others: tuple[str, ...] = ()

    def read(self, rows: pa.Table) -> Iterator[Fetched]:
        files = [os.fsdecode(file) for file in rows.column("file").to_pylist()]
        names = rows.column("path").to_pylist()
        if is_local(self.fs):
            yield from (read_local(file, name, self.root, self.others) for file, name in zip(files, names, strict=True))
            return
        for start in range(0, len(files), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            yield from read_remote(self.fs, files[some], names[some], self.others)
