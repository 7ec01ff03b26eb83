"""Parquet files, read without believing what they say of themselves.

A few bytes may stand for gigabytes: in a page that is compressed, a number of values that is only claimed, a dictionary
whose one entry is meant a million times. So the headers of a column's pages are read before it is decoded, it is
decoded by few rows at a time, and what becomes of it is counted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import IO, TYPE_CHECKING, cast
from weakref import finalize

from ..io.counts import count
from ..io.protobuf_wire import WireError
from ..io.thrift_wire import Struct, read_struct
from ..io.unpacking import OversizedError, check_unpacked, max_unpacked

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_MAX_FOOTER = 16 << 20
_FREE_ROWS = 1 << 20
"""Rows that any file may have; a larger one has no more than it has bytes: equal ones and nulls take next to none."""
_MAX_FIXED = 64
"""Bytes or items of a type of fixed size, all of which a null takes."""
_VALUE = 16
"""Bytes that a value takes beside its own: levels, offsets, a dictionary's entry."""
_AT_ONCE = 4
"""The part of what a group may unpack to that is decoded before it is counted."""
_DICTIONARIES, _DELTA_BYTE_ARRAY = frozenset({2, 8}), 7
"""Encodings by which bytes of a page stand for more than one value: a dictionary's, and what a value shares."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
"""Kinds of pages."""
_OWN_HEADER = {_DATA: (5, 2), _DICTIONARY: (7, 2), _DATA_V2: (8, 4)}
"""{kind: (the field of a page's header that holds the kind's own header, its field that names the encoding)}; of each,
the first field is the number of values."""


class ParquetFile:
    """An open Parquet file, whose columns are read by row group. It closes what it was given.

    Raises pyarrow's errors, OSError and WireError for a file that is none or damaged, OversizedError for one that would
    unpack to far more than its own size.
    """

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        self._file = file
        finalize(self, file.close)  # a folder of tokens keeps some open, and has no end of its own
        try:
            self.size = file.seek(0, os.SEEK_END)
            self._check_footer()
            file.seek(0)
            parsed = pq.ParquetFile(file, pre_buffer=False)
            self.metadata: pq.FileMetaData = parsed.metadata
            self.schema: pa.Schema = parsed.schema_arrow
            self._leaves = parsed.schema
            self._check_rows()
        except BaseException:
            file.close()
            raise

    @cached_property
    def group_rows(self) -> list[int]:
        """The rows of each row group."""
        return [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read some columns of a row group, dictionaries decoded."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.group_rows[group]:
            return self.schema.empty_table().select(list(columns))  # where its pages lie is not said
        what = f"row group {group} of {', '.join(map(repr, columns))}"
        chunks = _Chunks(self._file, self.size, _VALUE + max(map(self._width, columns)), what)
        reader = pq.ParquetFile(cast(IO[bytes], chunks), metadata=self.metadata, pre_buffer=False)

        def batches(rows: int) -> Iterator[pa.RecordBatch]:
            return cast(
                Iterator[pa.RecordBatch],
                reader.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False),
            )

        # For its first row Arrow fetches all pages, and they are checked on the way. It is not asked where they lie,
        # for a damaged footer would end the process.
        next(batches(1), None)
        limit = max_unpacked(chunks.packed)
        rows = max(1, min(self.group_rows[group], limit // _AT_ONCE // max(1, chunks.repeated)))
        dense: list[pa.RecordBatch] = []
        unpacked = 0
        for batch in batches(rows):
            dense.append(pa.RecordBatch.from_pydict({name: _dense(batch.column(name)) for name in columns}))
            unpacked += dense[-1].nbytes
            check_unpacked(what, unpacked, limit)
        found = sum(batch.num_rows for batch in dense)
        if found != self.group_rows[group]:
            raise WireError(f"{what} has {count(found, 'row')}, and says {self.group_rows[group]}")
        return pa.Table.from_batches(dense)

    def read(self, column: str) -> Iterator[pa.ChunkedArray]:
        """Read a column, row group by row group."""
        return (self.read_group(group, [column]).column(0) for group in range(len(self.group_rows)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check_footer(self) -> None:
        self._file.seek(max(0, self.size - 8))
        size = int.from_bytes(self._file.read(8)[:4], "little")
        if _MAX_FOOTER < size <= self.size:
            raise OversizedError(f"its footer has {count(size, 'byte')}, more than the limit of {_MAX_FOOTER:,}")

    def _check_rows(self) -> None:
        rows, limit = self.metadata.num_rows, max(_FREE_ROWS, self.size)
        if rows > limit:
            raise OversizedError(
                f"it says that it has {count(rows, 'row')}, more than the limit of {limit:,} for its size"
            )
        if min(self.group_rows, default=0) < 0 or sum(self.group_rows) != rows:
            raise WireError(f"its row groups have {count(sum(self.group_rows), 'row')}, and it says {rows}")

    def _width(self, name: str) -> int:
        """Return the bytes that a column's null takes. Raises OversizedError for a type that makes it large."""
        kind = self.schema.field(name).type
        _check_type(name, kind)
        leaves = (self._leaves.column(index) for index in range(len(self._leaves)))
        width = max((leaf.length or 0 for leaf in leaves if leaf.path.split(".")[0] == name), default=0)
        if width > _MAX_FIXED:
            raise OversizedError(f"the column {name!r} is of the type {kind}, of a size over {_MAX_FIXED}")
        return width


class _Chunks(io.RawIOBase):
    """The file as Arrow reads its columns: chunk by chunk, each checked and kept when it is asked for.

    `packed` is how many bytes they are, `repeated` the most that one value may repeat of others.
    """

    def __init__(self, file: IO[bytes], size: int, value: int, what: str) -> None:
        self._file, self._size, self._value, self._what = file, size, value, what
        self._at = self._unpacked = self.packed = self.repeated = 0
        self._kept: dict[tuple[int, int], bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        key = (self._at, size)
        if key not in self._kept:
            if not 0 <= self._at <= self._at + size <= self._size:
                raise WireError(f"{self._what} lies outside the file")
            self._file.seek(self._at)
            data = self._file.read(size)
            self._check(data)
            self._kept[key] = data
        self._at += size
        return self._kept[key]

    def _check(self, data: bytes) -> None:
        """Count what the pages of a chunk say that they hold."""
        at = dictionary = 0
        self.packed += len(data)
        while at < len(data):
            header, at = read_struct(data, at, len(data))
            kind, size, packed = (_number(header, field) for field in (1, 2, 3))
            self._unpacked += size
            if kind in _OWN_HEADER:
                field, encoded_as = _OWN_HEADER[kind]
                own = header.get(field)
                if not isinstance(own, dict):
                    raise WireError(f"a page of the kind {kind} has no header of its kind")
                values, encoding = _number(own, 1), _number(own, encoded_as)
                self._unpacked += values * self._value
                if kind == _DICTIONARY:
                    dictionary = max(dictionary, size)
                elif encoding in _DICTIONARIES:
                    self.repeated = max(self.repeated, dictionary)
                elif encoding == _DELTA_BYTE_ARRAY:
                    self.repeated = max(self.repeated, size)
            at += packed
            if at > len(data):
                raise WireError("a page is cut")
        check_unpacked(self._what, self._unpacked, max_unpacked(self.packed))


def _number(header: Struct, field: int) -> int:
    value = header.get(field)
    if not isinstance(value, int) or value < 0:
        raise WireError(f"the header of a page has {value!r} as its field {field}")
    return value


def _check_type(name: str, kind: pa.DataType) -> None:
    """Raise OversizedError for a type by which one row may be of any size, whatever stands in the file."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind) and kind.list_size > _MAX_FIXED:
        raise OversizedError(f"the column {name!r} is of the type {kind}, of a size over {_MAX_FIXED}")
    children = [kind.field(index).type for index in range(kind.num_fields)]
    if not pa.types.is_struct(kind) and not all(map(pa.types.is_primitive, children)):
        raise OversizedError(f"the column {name!r} is of the type {kind}; expected no lists but of numbers")
    for child in children:
        _check_type(name, child)


def _dense(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
