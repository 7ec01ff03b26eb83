"""What a source of images is, and the columns that every listing has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...io.filenames import utf8_name
from ...io.omitted import Omitted
from .fetching import Fetched

if TYPE_CHECKING:
    import pyarrow as pa


class Source(Protocol):
    """Images in a fixed order: what lists them. `omitted` is what of the source is none of them, after `listing`."""

    omitted: Omitted

    def files(self) -> dict[str, str]:
        """Return the files behind the images, and for those that hold many images their state, else "".

        Opens none of them.
        """
        ...

    def listing(self) -> pa.Table:
        """Return one row an image: `path` (string, its key), `file` (binary), `label` if asked for, more for `read`.

        Raises InputError for files that are damaged, or hold no images.
        """
        ...

    def reader(self, files: dict[str, str]) -> Reader:
        """Return what reads the images of such rows. `files` is what `files()` gave when they were listed."""
        ...


class Reader(Protocol):
    """Reads images in any process. Goes there by pickle, so it is small and holds no open files."""

    def read(self, rows: pa.Table) -> Iterator[Fetched]:
        """Yield the encoded images of some rows of a listing, in order.

        Raises InputError when the source itself fails.
        """
        ...


def table(paths: Sequence[str], files: Iterable[str], labels: Sequence[Any] | None, **more: Any) -> pa.Table:
    """Make a listing. Names that are not UTF-8 stay what they are in `file`, and get stand-ins in `path`."""
    import pyarrow as pa

    # Of files that are an image each, a dictionary would only be the same column again, in memory as a whole.
    encoded = pa.array((os.fsencode(file) for file in files), pa.binary())
    columns = {
        "path": pa.array(map(utf8_name, paths), pa.string()),
        "file": encoded.dictionary_encode() if more else encoded,
    }
    if labels is not None:
        columns["label"] = _label_column(labels)
    return pa.table(columns | {name: pa.array(values, pa.int64()) for name, values in more.items()})


@dataclass(frozen=True)
class Part:
    """The images of one file that holds many: their keys, and what a reader finds them by, int64 each."""

    file: str
    paths: pa.Array
    more: Mapping[str, Sequence[int]]


def table_of(parts: Iterable[Part], labels: Sequence[Any] | None) -> pa.Table:
    """Make a listing of files that hold many images each, 40 bytes an image beside its key's."""
    import pyarrow as pa

    files: list[bytes] = []
    paths: list[pa.Array] = []
    counts: list[int] = []
    more: dict[str, list[pa.Array]] = {}
    for part in parts:
        files.append(os.fsencode(part.file))
        paths.append(part.paths)
        counts.append(len(part.paths))
        for name, values in part.more.items():
            more.setdefault(name, []).append(pa.array(values, pa.int64()))
    indices = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    columns: dict[str, Any] = {
        "path": pa.chunked_array(paths, pa.string()),
        "file": pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(files, pa.binary())),
    }
    if labels is not None:
        columns["label"] = _label_column(labels)
    return pa.table(columns | {name: pa.chunked_array(chunks, pa.int64()) for name, chunks in more.items()})


def _label_column(labels: Sequence[Any]) -> pa.Array:
    """Make a column of whole numbers or of text: int64 where they fit, uint64 for hashes and the like, else text."""
    import pyarrow as pa

    numbers = [label for label in labels if isinstance(label, int)]
    if not numbers:
        return pa.array(labels, pa.string())
    lowest, highest = min(numbers), max(numbers)
    if highest < 2**63:
        return pa.array(labels, pa.int64())
    if lowest >= 0:
        return pa.array(labels, pa.uint64())
    return pa.array([None if label is None else str(label) for label in labels], pa.string())


def by_file(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield runs of rows of the same file, in order."""
    files = rows.column("file").to_pylist()
    start = 0
    for stop in range(1, len(files) + 1):
        if stop == len(files) or files[stop] != files[start]:
            yield os.fsdecode(files[start]), rows.slice(start, stop - start)
            start = stop
