"""A folder of tokens in other forms: one .npy file that is mapped into memory, or WebDataset's tar files.

Read once from its first row to its last, and held to the checksums of its manifest; the result appears when all of it
is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutputError
from ..io.atomic_files import staged_folder
from .folder import TokenFolder
from .mapped import ABOUT, DTYPES, IDS, LABELS, NO_LABEL, ROWS, about

FORMS = ("npy", "webdataset")
Report = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


@dataclass(frozen=True)
class _Shard:
    """The rows of one shard: `ids` int32 [n,L], and a dict of the other columns of each, from number `first` on."""

    number: int
    first: int
    ids: npt.NDArray[np.int32]
    others: Any


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    form: str,
    *,
    dtype: str = DTYPES[0],
    report: Report | None = None,
) -> int:
    """Write all rows of a finished folder in another form to the new folder `out`, and return how many there are.

    Args:
        source: what `coda tokenize` wrote, local or by URL.
        out: a local folder that is not there, or is empty.
        form: "npy": tokens.npy, [N,L] of `dtype`, labels.npy where there are labels, and the other columns in
            rows.parquet; "webdataset": a tar file for each shard, with the members `<number>.ids.npy`,
            `<number>.json` (the other columns) and, where there are labels, `<number>.cls`.
        dtype: "int32", or "uint16" for vocabularies up to 65536, which takes half.
        report: is told of the progress.

    One shard is in memory at a time. Raises InputError for values that do not fit and a folder that is not empty,
    OutputError where the source is damaged or `out` cannot be written.
    """
    folder, target = TokenFolder(source), Path(out)
    if form not in FORMS:
        raise InputError(f"the form is {form!r}; expected one of {', '.join(FORMS)}")
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if folder.spec.vocab_size > np.iinfo(dtype).max + 1:
        raise InputError(f"ids up to {folder.spec.vocab_size - 1} do not fit {dtype}; choose int32")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; choose another --out, or empty it")
    with staged_folder(target) as beside:
        write = _write_npy if form == "npy" else _write_webdataset
        write(folder, beside, np.dtype(dtype), _shards(folder, report or (lambda done, total: None)))
    return len(folder)


def _shards(folder: TokenFolder, report: Report) -> Iterator[_Shard]:
    """Yield the shards in order. Raises OutputError for one that is not what the manifest describes."""
    first = block = 0
    sizes = folder.block_rows()
    for number, (shard, rows) in enumerate(zip(folder.manifest["shards"], folder.shard_rows, strict=True)):
        blocks, digest = [], hashlib.sha256()
        found = 0
        while found < rows:
            blocks.append(folder.block(block)[0])
            digest.update(np.ascontiguousarray(blocks[-1], "<i4").tobytes())
            found += int(sizes[block])
            block += 1
        if digest.hexdigest() != shard["ids_sha256"]:
            raise OutputError(
                f"{shard['file']} is not the file that manifest.json describes; remove both and run `coda tokenize` "
                "again"
            )
        ids = np.concatenate(blocks) if blocks else np.empty((0, folder.spec.num_tokens), np.int32)
        yield _Shard(number, first, ids, folder.table(number))
        first += rows
        report(first, len(folder))


def _write_npy(folder: TokenFolder, beside: Path, dtype: np.dtype[Any], shards: Iterator[_Shard]) -> None:
    import pyarrow.parquet as pq

    shape = (len(folder), folder.spec.num_tokens)
    labelled = "label" in folder.columns
    names: dict[str, int] | None = None
    writer: pq.ParquetWriter | None = None
    with _npy(beside / IDS, dtype, shape) as ids, _npy(beside / LABELS, np.dtype("<i8"), shape[:1]) as labels:
        for shard in shards:
            ids.write(np.ascontiguousarray(shard.ids, dtype).tobytes())
            if labelled:
                values = shard.others.column("label").to_pylist()
                if any(isinstance(value, str) for value in values):
                    names = {} if names is None else names
                    values = [None if value is None else names.setdefault(value, len(names)) for value in values]
                numbers = [NO_LABEL if value is None else _int64(value) for value in values]
                labels.write(np.array(numbers, "<i8").tobytes())
            if writer is None:
                writer = pq.ParquetWriter(
                    beside / ROWS, shard.others.schema.remove_metadata(), compression="zstd", write_statistics=False
                )
            writer.write_table(shard.others.replace_schema_metadata(None))
    if writer is not None:
        writer.close()
    if not labelled:
        (beside / LABELS).unlink()
    content = about(
        folder.spec, shape[0], folder.variants, dtype.name, None if names is None else list(names), labelled
    )
    (beside / ABOUT).write_bytes(content)


def _write_webdataset(folder: TokenFolder, beside: Path, dtype: np.dtype[Any], shards: Iterator[_Shard]) -> None:
    digits = max(9, len(str(len(folder))))
    for shard in shards:
        with tarfile.open(beside / f"shard-{shard.number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, (ids, others) in enumerate(zip(shard.ids, shard.others.to_pylist(), strict=True)):
                key = f"{shard.first + number:0{digits}d}"
                file = io.BytesIO()
                np.lib.format.write_array(file, ids.astype(dtype), allow_pickle=False)
                members = {"ids.npy": file.getvalue(), "json": json.dumps(others).encode()}
                if others.get("label") is not None:
                    members["cls"] = str(others["label"]).encode()
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


class _npy:  # noqa: N801 - a with-statement like open
    """A .npy file that is written row by row, whose shape is known before."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _int64(value: int) -> int:
    if not NO_LABEL < value < 2**63:
        raise InputError(f"the label {value} does not fit int64; convert to webdataset, or tokenize without --label")
    return value
