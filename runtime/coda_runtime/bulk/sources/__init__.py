"""From what a user wrote after BUNDLE to the images behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ...errors import InputError
from ...io.counts import count
from ...io.image_files import COMPRESSED_TARS, SUFFIXES, expected_suffixes
from ...io.remote import redacted
from .base import Reader, Source
from .images import ImageFiles
from .matches import find
from .parquet import ParquetFiles
from .tars import TarFiles

__all__ = ["Reader", "Source", "SourceOptions", "open_source"]


@dataclass(frozen=True)
class SourceOptions:
    """What of the source is wanted: `label` is "folder", a suffix in tar files or a column; columns are Parquet's."""

    label: str | None = None
    image_column: str = "image"
    key_column: str | None = None


def open_source(where: str, options: SourceOptions, *, leave_out: str | None = None) -> Source:
    """Open the images of a folder, a file or a pattern, local or by URL: image files, .tar shards or Parquet files.

    Files under `leave_out` do not count. Raises InputError where nothing usable is there, or more than one kind;
    MissingDependencyError.
    """
    matches = find(where, leave_out=leave_out)
    images, tars, tables = (matches.ending(*suffixes) for suffixes in (sorted(SUFFIXES), (".tar",), (".parquet",)))
    kinds = [kind for kind, names in (("images", images), (".tar", tars), (".parquet", tables)) if names]
    if len(kinds) > 1:
        pattern = f"**/*{PurePosixPath((images or tars)[0]).suffix}"
        raise InputError(
            f"{redacted(where)} has {count(len(images), 'image')}, {len(tars)} .tar and {len(tables)} .parquet files; "
            "say which "
            f'are meant with a pattern, such as "{redacted(where).rstrip("/")}/{pattern}"'
        )
    if not kinds:
        compressed = matches.ending(*COMPRESSED_TARS)
        if compressed:
            raise InputError(
                f"{compressed[0]} is a compressed tar file, which allows no random access: decompress it to .tar"
            )
        told = f" (left out: {matches.omitted})" if matches.omitted else ""
        raise InputError(
            f"{redacted(where)} has no images{told}; expected files ending in {expected_suffixes()}, .tar or .parquet"
        )
    if not tables and (options.key_column is not None or options.image_column != SourceOptions.image_column):
        raise InputError("--key-column and --image-column are for Parquet files; leave them out")
    if tables:
        return ParquetFiles(matches, options.image_column, options.key_column, options.label)
    return TarFiles(matches, options.label) if tars else ImageFiles(matches, options.label)
