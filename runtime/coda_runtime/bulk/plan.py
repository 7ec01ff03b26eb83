"""The plan of a run: every image in a fixed order, and the settings that decide what the result is.

It is one Arrow file in the destination, written before anything else. A run that was stopped goes on by it; shard k
holds the images k N to (k + 1) N - 1 of it, less those that cannot be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, OutputError, one_line
from ..format.bundle import Bundle
from ..format.color import STORED
from ..format.parts import OPERATIONS, PARTS
from ..format.precision import FP32
from ..images.variants import ONE, Variants
from ..io.json_fields import describe, is_int, parse_json
from ..io.omitted import Omitted

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
NAME = "plan.arrow"
_KEY = b"coda.plan"


@dataclass(frozen=True)
class Settings:
    """What decides the result. Two runs with equal settings and images give the same files.

    `tokenizer` is {file: sha256} of the bundle's graphs that make ids, of their precision; where the bundle lies, and
    what engines were built from the graphs, does not matter. `label`, `image_column`, `key_column` are SourceOptions';
    `color` is LoadOptions', and what older plans were made with is its default.
    """

    source: str
    shard_size: int
    precision: str
    tokenizer: dict[str, str]
    spec: dict[str, Any]
    label: str | None
    original_size: bool
    image_column: str
    key_column: str | None
    format_version: int = FORMAT_VERSION
    color: str = STORED
    reproducible: bool = False  # LoadOptions'; older plans have none
    variants: dict[str, Any] | None = None  # Variants.to_json(); None: the middle alone, and no columns that say so

    def differences(self, other: Settings) -> list[str]:
        """Return what differs in `other`, in words."""
        out = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                told = f" ({mine!r} there, {theirs!r} now)" if field.name not in ("tokenizer", "spec") else ""
                out.append(field.name.replace("_", " ") + told)
        return out


class PlanRows:
    """The rows of a plan's file: a record batch for each shard, unpacked when asked for; older plans are a table."""

    def __init__(self, reader: pa.ipc.RecordBatchFileReader, whole: pa.Table | None) -> None:
        self._reader, self._whole = reader, whole

    def take(self, number: int, size: int) -> pa.Table:
        """Return the rows of shard `number`, each of `size` rows. Raises OutputError if they are damaged."""
        import pyarrow as pa

        if self._whole is not None:
            return self._whole.slice(number * size, size)
        try:
            return pa.Table.from_batches([self._reader.get_batch(number)])
        except (pa.ArrowException, OSError) as error:
            raise OutputError(
                f"the plan is damaged in shard {number} ({one_line(error)}); choose another --out"
            ) from error


@dataclass(frozen=True)
class Plan:
    """The settings, and one row an image as `Source.listing` gives them; `digest` names it.

    The rows are unpacked a shard at a time, so that a plan of a hundred million images is in memory as it lies on disk.
    `images` is how many there are, `unlabelled` how many of them have no label, 0 where none was asked for. `files`
    holds the state of each file that holds many images, `omitted` what of the source is no image of the plan.
    """

    settings: Settings
    rows: PlanRows
    images: int
    unlabelled: int
    files: dict[str, str]
    omitted: Omitted
    digest: str

    def left_out(self, files: Iterable[str]) -> int:
        """Count the source's files that the plan does not know."""
        if self.files:
            return len(set(files) - set(self.files))
        # Hashes: 8 bytes for each of the files, which may be as many as the images, where a name takes a hundred.
        known = [_hashes(map(os.fsdecode, self.shard(k).column("file").to_pylist())) for k in range(self.shards)]
        return int((~np.isin(_hashes(files), np.concatenate(known))).sum())

    @property
    def variants(self) -> Variants:
        """What is made of each image."""
        return ONE if self.settings.variants is None else Variants.from_json(self.settings.variants)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.images // self.settings.shard_size)

    def shard_images(self, number: int) -> int:
        """Return how many images a shard has, without reading them."""
        return min(self.settings.shard_size, self.images - number * self.settings.shard_size)

    def shard(self, number: int) -> pa.Table:
        """Return the images of a shard."""
        return self.rows.take(number, self.settings.shard_size)


def tokenizer_files(bundle: Bundle, precision: str) -> dict[str, str]:
    """Return {file: sha256} of what makes ids: the ONNX graphs of encoder and quantizer, and the value table."""
    wanted = {(part, PARTS[part].precision_in(precision)) for part in OPERATIONS["encode"]} | {("codebook", FP32)}
    artifacts = [a for a in bundle.manifest.artifacts if (a.part, a.precision) in wanted]
    portable = [a for a in artifacts if a.format in ("onnx", "npy")] or artifacts
    return {f"{a.part}.{a.precision}.{a.format}": a.sha256 for a in portable}


def make_plan(settings: Settings, images: pa.Table, files: Mapping[str, str], omitted: Omitted) -> tuple[Plan, bytes]:
    """Make a plan, and the file that holds it."""
    import pyarrow as pa

    content = json.dumps(
        {
            "settings": dataclasses.asdict(settings),
            "images": images.num_rows,
            "unlabelled": images.column("label").null_count if settings.label is not None else 0,
            "files": {path: state for path, state in files.items() if state},
            "omitted": omitted.to_json(),
        }
    )
    table = images.replace_schema_metadata({_KEY: content.encode()})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        for start in range(0, table.num_rows, settings.shard_size):
            writer.write_table(table.slice(start, settings.shard_size).combine_chunks())
    data = sink.getvalue().to_pybytes()
    return read_plan(data, "the plan"), data


def read_plan(data: bytes, where: str) -> Plan:
    """Read the plan in a file's bytes. Raises OutputError if it is damaged or of another coda."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.BufferReader(data))
        content = parse_json(reader.schema.metadata[_KEY])
        settings = Settings(**content["settings"])
        if settings.variants is not None:
            Variants.from_json(settings.variants)
        omitted = Omitted.from_json(content.get("omitted", {}))  # older plans have none
        files = content["files"]
        if not isinstance(files, dict):
            raise TypeError(f"files is {describe(files)}, expected an object")
        for column in ("path", "file", *(["label"] if settings.label is not None else [])):
            reader.schema.field(column)
        images, unlabelled, whole = content.get("images"), content.get("unlabelled"), None
        if images is None or reader.num_record_batches != -(-images // settings.shard_size):
            whole = reader.read_all()  # of older plans
            images = whole.num_rows
            unlabelled = whole.column("label").null_count if settings.label is not None else 0
        elif not is_int(images) or not is_int(unlabelled):
            raise TypeError(f"images is {describe(images)}, expected a number")
    except (pa.ArrowException, InputError, ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{where} is not a plan that this coda knows ({one_line(error, named=True)}); choose another --out"
        ) from error
    return Plan(settings, PlanRows(reader, whole), images, unlabelled, files, omitted, hashlib.sha256(data).hexdigest())


def _hashes(names: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return a number for each of some names, as good as the name in this process."""
    return np.fromiter(map(hash, names), np.int64)


def check_same(plan: Plan, settings: Settings, where: str) -> None:
    """Raise InputError naming what differs, unless a run with `settings` would go on with `plan`."""
    differences = plan.settings.differences(settings)
    if differences:
        raise InputError(
            f"{where} was started with other settings: {', '.join(differences)}; run with the same ones, or choose "
            "another --out"
        )
