"""Finished shards: one Parquet file each, which carries its own account."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OutputError, one_line
from ..io.json_fields import parse_json
from ..io.protobuf_wire import WireError
from .destination import Destination
from .parquet_file import ParquetFile
from .plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 256
"""The most rows in each row group, unless one image has more: what is decoded to read one row."""
VARIANT_COLUMNS = ("variant", "box", "flip")
"""Columns of a run that makes several variants of each image."""
_KEY = b"coda.shard"


@dataclass(frozen=True)
class Finished:
    """A shard that is done, with all rows of so many images.

    `errors` holds {"path", "error"} of each image that could not be read. `ids_sha256` is that of the ids of all rows,
    as little-endian int32; `made_by` says what each part ran on; `profiles_ignored` counts images with a colour profile
    other than sRGB that was ignored.
    """

    file: str
    images: int
    errors: list[dict[str, str]]
    bytes: int
    ids_sha256: str
    made_by: list[dict[str, str]]
    profiles_ignored: int = 0


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.parquet"


def rows_per_group(variants: int) -> int:
    """Return the rows in each row group, which holds all variants of its images."""
    return max(1, ROWS_PER_GROUP // variants) * variants


def write_shard(destination: Destination, plan: Plan, number: int, results: list[pa.Table]) -> Finished:
    """Write what the pipeline gave for all images of a shard. Raises OutputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = plan.shard(number)
    order = [("position", "ascending"), ("variant", "ascending")]
    result = pa.concat_tables(results).sort_by(order).combine_chunks()
    errors = result.column("error")
    readable = errors.is_null().combine_chunks()
    of_plan = np.asarray(result.column("position")) - number * plan.settings.shard_size
    columns = {"path": rows.column("path").take(of_plan), "ids": result.column("ids")}
    if plan.settings.variants is not None:
        columns |= {name: result.column(name) for name in VARIANT_COLUMNS}
    if plan.settings.label is not None:
        columns["label"] = rows.column("label").take(of_plan)
    if plan.settings.original_size:
        columns |= {name: result.column(name) for name in ("width", "height")}
    table = pa.table(columns).filter(readable)
    paths = columns["path"].to_pylist()
    made_by = sorted({text for text in result.column("made_by").to_pylist() if text})
    account: dict[str, Any] = {
        "plan": plan.digest,
        "errors": [
            {"path": path, "error": error}
            for path, error in zip(paths, errors.to_pylist(), strict=True)
            if error is not None
        ],
        "ids_sha256": ids_sha256([table.column("ids")]),
        "made_by": [part for text in made_by for part in json.loads(text)],
        "profiles_ignored": sum(
            bool(ignored) and not variant
            for ignored, variant in zip(
                result.column("profile_ignored").to_pylist(), result.column("variant").to_pylist(), strict=True
            )
        ),
    }
    file = io.BytesIO()
    table = table.replace_schema_metadata({_KEY: json.dumps(account).encode()})
    pq.write_table(
        table, file, row_group_size=rows_per_group(plan.variants.count), compression="zstd", write_statistics=False
    )
    name = shard_name(number)
    destination.write(name, file.getvalue())
    return _finished(name, table.num_rows // plan.variants.count, len(file.getvalue()), account)


def read_shard(destination: Destination, plan: Plan, number: int) -> Finished:
    """Read the account of a finished shard. Raises OutputError if it is damaged, or of another run."""
    import pyarrow as pa

    name = shard_name(number)
    where = f"{destination.url}/{name}"
    try:
        with destination.open(name) as file:
            metadata = ParquetFile(file).metadata
        account = parse_json(metadata.metadata[_KEY])
        images = metadata.num_rows // plan.variants.count
        finished = _finished(name, images, destination.size(name), account)
        known = account["plan"] == plan.digest
    except (pa.ArrowException, OSError, MemoryError, WireError, ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{where} is damaged, or was not written by coda ({one_line(error)}); remove it and run again"
        ) from error
    if not known:
        raise OutputError(f"{where} belongs to another run than {destination.url}; remove it, or choose another --out")
    return finished


def ids_sha256(columns: Iterable[pa.ChunkedArray]) -> str:
    """Return the SHA-256 of the ids of all rows, as little-endian int32."""
    digest = hashlib.sha256()
    for chunk in (chunk for column in columns for chunk in column.chunks):
        digest.update(chunk.flatten().to_numpy(zero_copy_only=False).astype("<i4", copy=False).tobytes())
    return digest.hexdigest()


def _finished(name: str, images: int, size: int, account: dict[str, Any]) -> Finished:
    ignored = int(account.get("profiles_ignored", 0))  # older shards have none
    return Finished(name, images, account["errors"], size, account["ids_sha256"], account["made_by"], ignored)
