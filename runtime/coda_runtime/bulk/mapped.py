"""Tokens in one .npy file, mapped into memory: what `coda tokens convert --to npy` writes, for rows in any order."""

from __future__ import annotations

import json
import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CodaError, OutputError, one_line
from ..format.spec import Spec
from ..io.counts import count
from ..io.json_fields import is_int, is_list, parse_json

ABOUT, IDS, LABELS, ROWS = "tokens.json", "tokens.npy", "labels.npy", "rows.parquet"
FORMAT_VERSION = 1
NO_LABEL = np.iinfo(np.int64).min
"""In labels.npy, an image without a label."""
DTYPES = ("int32", "uint16")
_BLOCK = 4096


class MappedTokens:
    """A folder with all ids in one array: rows by number, each read from the disk's pages when it is asked for.

    `ids` is the array, int32 or uint16 [N,L], mapped read-only. Workers and processes share its pages. Goes to other
    processes by pickle. Raises OutputError for a folder that `coda tokens convert --to npy` did not finish.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self._where = Path(where).absolute()  # other processes may stand in another folder
        try:
            about = parse_json((self._where / ABOUT).read_bytes())
            version = about["format_version"]
            if is_int(version) and version > FORMAT_VERSION:
                raise OutputError(f"{self._where} has format version {version}, of a newer coda; upgrade coda-runtime")
            self.spec = Spec.from_json(about["spec"])
            self.variants = int(about["variants"])
            self._names: list[str] | None = about["label_names"]
            if self.variants < 1 or not (self._names is None or is_list(self._names)):
                raise ValueError(f"{ABOUT} has {self.variants} variants, or names of labels that are no list")
            self.columns: tuple[str, ...] = ("ids", "label") if about["labelled"] else ("ids",)
            self.ids = self._map(IDS, (int(about["rows"]), self.spec.num_tokens), (about["dtype"],))
            self._labels = self._map(LABELS, (len(self.ids),), ("int64",)) if about["labelled"] else None
        except OutputError:
            raise
        except (OSError, ValueError, TypeError, KeyError, CodaError) as error:
            raise OutputError(
                f"{self._where} is not what `coda tokens convert --to npy` writes ({one_line(error, named=True)}); "
                "run it again"
            ) from error

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row: `ids` int32 [L], and `label` where there are labels. Raises IndexError."""
        asked = operator.index(index)
        if not -len(self) <= asked < len(self):
            raise IndexError(f"there is no row {asked}; {self._where} has {len(self)}")
        row: dict[str, Any] = {"ids": np.asarray(self.ids[asked], np.int32)}
        return row if self._labels is None else {**row, "label": self.labels(np.array([asked]))[0]}

    def take(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return the ids of some rows, numbered from 0, as they are stored, [n,L]."""
        taken: npt.NDArray[Any] = np.asarray(self.ids[rows])
        return taken

    def labels(self, rows: npt.NDArray[np.intp]) -> list[Any]:
        """Return the labels of some rows: whole numbers or text, None where there is none. Raises OutputError."""
        if self._labels is None:
            return [None] * len(rows)
        values = self._labels[rows].tolist()
        if self._names is None:
            return [None if value == NO_LABEL else value for value in values]
        known = len(self._names)
        wrong = next((value for value in values if value != NO_LABEL and not 0 <= value < known), None)
        if wrong is not None:
            raise OutputError(
                f"{self._where / LABELS} has the label {wrong}, and {ABOUT} {count(known, 'name')}; run "
                "`coda tokens convert` again"
            )
        return [None if value == NO_LABEL else self._names[value] for value in values]

    def block_rows(self) -> npt.NDArray[np.int64]:
        """Return how many rows each block has that is read at once; no image is in two."""
        rows = max(1, _BLOCK // self.variants) * self.variants
        full, rest = divmod(len(self), rows)
        return np.array([rows] * full + [rest] * (rest > 0), np.int64)

    def block(self, number: int) -> tuple[npt.NDArray[Any], list[Any] | None]:
        """Return the ids [n,L] of a block, as they are stored, and its labels if there are any."""
        first = number * max(1, _BLOCK // self.variants) * self.variants
        rows = np.arange(first, min(first + self.block_rows()[0], len(self)))
        return self.ids[rows[0] : rows[-1] + 1], None if self._labels is None else self.labels(rows)

    def reopened(self) -> MappedTokens:
        """Return the same folder mapped anew."""
        return MappedTokens(self._where)

    def __repr__(self) -> str:
        return f"<coda_runtime.bulk.MappedTokens {self._where}: {count(len(self), 'row')}>"

    def __reduce__(self) -> tuple[type[MappedTokens], tuple[Path]]:
        return MappedTokens, (self._where,)

    def _map(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> npt.NDArray[Any]:
        try:
            array = np.lib.format.open_memmap(self._where / name, mode="r")
        except Exception as error:  # numpy stumbles in many ways over a damaged file
            raise ValueError(f"{name}: {one_line(error)}") from error
        if array.shape != shape or array.dtype.name not in dtypes or array.dtype.name not in (*DTYPES, "int64"):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {dtypes[0]} {list(shape)}")
        # A plain array on the map: np.memmap's own indexing costs more than the row.
        return np.asarray(array)


def about(spec: Spec, rows: int, variants: int, dtype: str, label_names: list[str] | None, labelled: bool) -> bytes:
    """Return the bytes of tokens.json."""
    content = {
        "format_version": FORMAT_VERSION,
        "spec": spec.to_json(),
        "rows": rows,
        "variants": variants,
        "dtype": dtype,
        "labelled": labelled,
        "label_names": label_names,
    }
    return json.dumps(content, indent=2).encode()
