"""What `coda tokenize` wrote, read back: rows by number, without Ray. Needs pyarrow, and fsspec for URLs."""

from __future__ import annotations

import bisect
import operator
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import OutputError, TokenError, one_line
from ..format.spec import Spec
from ..io.counts import count
from ..io.protobuf_wire import WireError
from ..io.remote import require
from ..io.unpacking import OversizedError
from .destination import Destination
from .manifest import NAME, read_manifest
from .parquet_file import ParquetFile
from .shards import ids_sha256

if TYPE_CHECKING:
    import pyarrow as pa

_GROUPS_KEPT = 32
_FILES_KEPT = 64  # thousands would run into the limit on open files


class TokenFolder:
    """A finished folder of tokens: a sequence of rows, in the order of the plan, all variants of an image together.

    Opening reads manifest.json alone; a row costs its row group, of which the last few are kept. Goes to other
    processes by pickle, and is not to be shared between threads. Raises OutputError for a folder that is not
    finished, or not of `coda tokenize`.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        require("pyarrow", "fsspec")
        self._folder = Destination(os.fspath(where))
        self._where = os.fspath(where) if self._folder.local is None else str(self._folder.local)
        names = self._folder.names()
        if not names:
            raise OutputError(f"{self._folder.url} does not exist or is empty; expected what `coda tokenize` wrote")
        if NAME not in names:
            raise OutputError(
                f"{self._folder.url} has no {NAME}, so its run is not finished; run the same `coda tokenize` again"
            )
        self._result = read_manifest(self._folder.read(NAME), f"{self._folder.url}/{NAME}")
        self._ends = list(accumulate(self.shard_rows))
        self._files: dict[str, ParquetFile] = {}
        self._groups: OrderedDict[tuple[str, int], _Group] = OrderedDict()
        self._blocks: list[int] = []

    @property
    def spec(self) -> Spec:
        """What the tokenizer of the ids computes."""
        return self._result.spec

    @property
    def manifest(self) -> dict[str, Any]:
        """All of manifest.json."""
        return self._result.data

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns: `path` and `ids`, and what was asked for beside them."""
        return tuple(self.manifest["columns"])

    @property
    def variants(self) -> int:
        """How many rows each image has: row i V + v is variant v of image i. 1 without --crops and --flip."""
        return self._result.variants

    @property
    def shard_rows(self) -> tuple[int, ...]:
        """How many rows each shard has, in order: those of all variants, where the manifest counts images."""
        return tuple(rows for _, rows in self._result.shards)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row: `ids` is int32 [L], read-only, the others Python values. Negative numbers count from the end.

        Raises IndexError, TokenError for ids that do not fit the spec, OutputError for a shard that is damaged.
        """
        asked = operator.index(index)
        if not -len(self) <= asked < len(self):
            raise IndexError(f"there is no row {asked}; {self._folder.url} has {len(self)}")
        index = asked % len(self)
        shard = bisect.bisect_right(self._ends, index)
        file, rows = self._result.shards[shard]
        row = index - (self._ends[shard] - rows)
        group, inside = divmod(row, self._result.rows_per_group)
        found = self._group(file, group, min(self._result.rows_per_group, rows - row + inside))
        with self._explained(file):  # text that is none
            others = found.others.slice(inside, 1).to_pylist()[0]
        return {**others, "ids": found.ids[inside]}

    def __repr__(self) -> str:
        several = f", {count(self.variants, 'variant')} each" if self.variants > 1 else ""
        about = f"{count(len(self) // self.variants, 'image')}{several}, {count(self.spec.num_tokens, 'token')} each"
        return f"<coda_runtime.bulk.TokenFolder {self._folder.url}: {about}>"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def verify(self) -> None:
        """Read all shards and compare their ids with the checksums in the manifest. Raises OutputError."""
        for shard, expected in zip(self.manifest["shards"], self.shard_rows, strict=True):
            with self._explained(shard["file"]):
                file = self._open(shard["file"])
                rows, found = file.metadata.num_rows, ids_sha256(file.read("ids"))
            if rows != expected or found != shard["ids_sha256"]:
                raise OutputError(
                    f"{self._folder.url}/{shard['file']} is not the file that manifest.json describes; remove both and "
                    "run `coda tokenize` again"
                )

    def block_rows(self) -> npt.NDArray[np.int64]:
        """Return how many rows each block has that is read at once, a row group; no image is in two."""
        size = self._result.rows_per_group
        out: list[int] = []
        for rows in self.shard_rows:
            out += [size] * (rows // size) + [rows % size] * (rows % size > 0)
        return np.array(out, np.int64)

    def block(self, number: int) -> tuple[npt.NDArray[np.int32], list[Any] | None]:
        """Return the ids int32 [n,L] of a block, and its labels if there are any. Raises OutputError, TokenError."""
        size = self._result.rows_per_group
        if not self._blocks:
            self._blocks = list(accumulate(-(-rows // size) for rows in self.shard_rows))
        shard = bisect.bisect_right(self._blocks, number)
        file, rows = self._result.shards[shard]
        group = number - (self._blocks[shard - 1] if shard else 0)
        found = self._decoded(file, group, min(size, rows - group * size), ["ids", *self._label_column()])
        if "label" not in self.columns:
            return found.ids, None
        with self._explained(file):
            return found.ids, found.others.column("label").to_pylist()

    def table(self, number: int) -> pa.Table:
        """Return all columns of a shard but `ids`, as an Arrow table. Raises OutputError."""
        import pyarrow as pa

        file = self._result.shards[number][0]
        with self._explained(file):
            opened = self._open(file)
            names = [name for name in self.columns if name != "ids"]
            groups = [opened.read_group(group, names) for group in range(len(opened.group_rows))]
            return pa.concat_tables(groups) if groups else opened.schema.empty_table().select(names)

    def reopened(self) -> TokenFolder:
        """Return the same folder with files of its own: what a forked process needs."""
        return TokenFolder(self._where)

    def __reduce__(self) -> tuple[type[TokenFolder], tuple[str]]:
        return TokenFolder, (self._where,)

    def _group(self, file: str, group: int, rows: int) -> _Group:
        """Return a row group of so many rows, decoded; the last few are kept."""
        found = self._groups.pop((file, group), None)
        if found is None:
            found = self._decoded(file, group, rows, list(self.columns))
        self._groups[file, group] = found
        if len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return found

    def _decoded(self, file: str, group: int, rows: int, columns: list[str]) -> _Group:
        """Return some columns of a row group of so many rows, ids among them, decoded and checked."""
        with self._explained(file):
            opened = self._open(file)
            if group >= len(opened.group_rows) or opened.group_rows[group] != rows:
                raise IndexError(f"its row groups have {opened.group_rows[:9]} rows, expected {rows} in no. {group}")
            table = opened.read_group(group, columns)
            ids = table.column("ids").combine_chunks()
            lengths = ids.value_lengths().to_numpy(zero_copy_only=False)
            values = ids.flatten().to_numpy()
        if (lengths != self.spec.num_tokens).any() or values.min() < 0 or values.max() >= self.spec.vocab_size:
            raise TokenError(
                f"{self._folder.url}/{file} has ids that do not fit its manifest: expected {self.spec.num_tokens} "
                f"in each row, from 0 to {self.spec.vocab_size - 1}; run `coda tokenize` again"
            )
        values.flags.writeable = False
        return _Group(table.drop_columns("ids"), values.reshape(-1, self.spec.num_tokens))

    def _label_column(self) -> list[str]:
        return ["label"] if "label" in self.columns else []

    def _open(self, file: str) -> ParquetFile:
        import pyarrow as pa

        if file not in self._files:
            if len(self._files) >= _FILES_KEPT:
                self._files.pop(next(iter(self._files))).close()
            opened = ParquetFile(self._folder.open(file))
            kind = opened.schema.field("ids").type
            if not pa.types.is_list(kind) or kind.value_type != pa.int32():
                opened.close()
                raise LookupError(f"its ids are {kind}, expected list<int32>")
            self._files[file] = opened
        return self._files[file]

    @contextmanager
    def _explained(self, file: str) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (OSError, MemoryError, pa.ArrowException, WireError, OversizedError, LookupError, UnicodeError) as error:
            raise OutputError(
                f"{self._folder.url}/{file} is missing or damaged ({one_line(error)}); remove it and manifest.json, "
                "and run `coda tokenize` again"
            ) from error


@dataclass(frozen=True)
class _Group:
    others: pa.Table
    ids: npt.NDArray[np.int32]
