"""Parquet files with encoded images in a column, as bytes or as Hugging Face's struct of bytes and path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...errors import CodaError, ImageError, InputError, one_line
from ...io.protobuf_wire import WireError
from ...io.remote import redacted
from ...io.unpacking import OversizedError, check_unpacked, max_unpacked
from ..parquet_file import ParquetFile
from .base import by_file, table
from .fetching import MAX_BYTES, Fetched, check_state, open_file, source_errors, state, too_large
from .matches import Matches

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetFiles:
    """Each row is an image. Its key is `file.parquet#row`, or what `key` names."""

    def __init__(self, matches: Matches, image: str, key: str | None, label: str | None) -> None:
        self._fs = matches.fs
        self._names = {name: matches.path(name) for name in matches.ending(".parquet")}
        self._image, self._key, self._label = image, key, label
        self._files = {path: state(self._fs, path) for path in self._names.values()}
        self.omitted = matches.omitted

    def files(self) -> dict[str, str]:
        return self._files

    def listing(self) -> pa.Table:
        paths: list[str] = []
        files: list[str] = []
        labels: list[Any] = []
        groups: list[int] = []
        rows: list[int] = []
        for name, path in self._names.items():
            with _opened(self._fs, path) as file:
                self._check_columns(path, file.schema)
                keys, file_labels = self._column(path, file, self._key), self._column(path, file, self._label)
                count = file.metadata.num_rows
                paths += [f"{name}#{row}" for row in range(count)] if keys is None else map(str, keys)
                labels += file_labels or []
                files += [path] * count
                for group, size in enumerate(file.group_rows):
                    groups += [group] * size
                    rows += range(size)
        return table(paths, files, _one_kind(labels) if self._label else None, group=groups, row=rows)

    def reader(self, files: dict[str, str]) -> ParquetReader:
        return ParquetReader(self._fs, files, self._image)

    def _check_columns(self, path: str, schema: pa.Schema) -> None:
        wanted = {"--image-column": self._image, "--key-column": self._key, "--label": self._label}
        for option, column in wanted.items():
            if column is not None and schema.get_field_index(column) < 0:
                raise InputError(
                    f"{path} has no column {column!r}, only {', '.join(schema.names)}; name one with {option}"
                )
        kind = schema.field(self._image).type
        if not _holds_bytes(kind) and not (_is_struct(kind) and _holds_bytes(kind.field("bytes").type)):
            raise InputError(
                f"{path}: the column {self._image!r} is {kind}; expected encoded images, as binary or as a struct with "
                "a binary field `bytes`: name another with --image-column"
            )

    def _column(self, path: str, file: ParquetFile, name: str | None) -> list[Any] | None:
        if name is None:
            return None
        if not _is_name_or_number(file.schema.field(name).type):
            raise InputError(f"{path}: the column {name!r} is neither text nor whole numbers; name another")
        values: list[Any] = []
        unpacked = 0
        for column in file.read(name):
            unpacked += column.nbytes
            check_unpacked(f"the column {name!r}", unpacked, max_unpacked(file.size))
            values += column.to_pylist()
        if name == self._key and None in values:
            raise InputError(f"{path}: the column {name!r} has nulls, and a key needs a value; leave out --key-column")
        return values


@dataclass(frozen=True)
class ParquetReader:
    """Reads row groups, of which each process keeps the last one: the next rows are mostly in it too."""

    fs: Any
    states: dict[str, str]
    image: str

    def read(self, rows: pa.Table) -> Iterator[Fetched]:
        for path, part in by_file(rows):
            check_state(self.fs, path, self.states[path])
            columns = (part.column(name).to_pylist() for name in ("path", "group", "row"))
            for name, group, row in zip(*columns, strict=True):
                encoded = _row_group(self.fs, path, self.states[path], group, self.image)[row].as_py()
                if encoded is None:
                    yield ImageError(f"{name!r} has no bytes in the column {self.image!r}")
                else:
                    yield encoded if len(encoded) <= MAX_BYTES else ImageError(too_large(name, len(encoded)))


@lru_cache(maxsize=1)
def _row_group(fs: Any, path: str, state: str, group: int, column: str) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    with _opened(fs, path) as file:
        found = file.read_group(group, [column]).column(0)
        return pc.struct_field(found, "bytes") if _is_struct(found.type) else found


@contextmanager
def _opened(fs: Any, path: str) -> Iterator[ParquetFile]:
    """Open a file for the block, and tell what is wrong with it there as an InputError."""
    import pyarrow as pa

    with source_errors(path):
        try:
            with open_file(fs, path) as file:
                yield ParquetFile(file)
        except CodaError:
            raise
        except MemoryError as error:
            raise InputError(
                f"{redacted(path)} needs more memory than there is ({one_line(error, named=True)}); write it again "
                "with fewer rows in each row group"
            ) from error
        except (OSError, pa.ArrowException, WireError, UnicodeError) as error:
            raise InputError(
                f"{redacted(path)} is not a Parquet file, or is damaged ({one_line(error)}); copy or download it again"
                f"{', if a second try does not help' if '://' in path else ''}"
            ) from error
        except OversizedError as error:
            raise InputError(
                f"{redacted(path)} is not read: {one_line(error)}; leave it out, or write it again with fewer rows in "
                "each row group"
            ) from error


def _one_kind(labels: list[Any]) -> list[Any]:
    """Return whole numbers if all are, else text."""
    if all(label is None or (isinstance(label, int) and not isinstance(label, bool)) for label in labels):
        return labels
    return [None if label is None else str(label) for label in labels]


def _is_name_or_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in (*texts, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null))


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_struct(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0
