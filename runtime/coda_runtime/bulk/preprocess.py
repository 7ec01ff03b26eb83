"""The first step of the pipeline: from rows of the plan to pixels, in any of Ray's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CodaError, ImageError, one_line
from ..format.color import STORED
from ..format.sizes import Size
from ..images.variants import ONE, Variants
from . import failures
from .decoding import Decoder, decoder
from .defaults import TIMEOUT_S
from .sources import Reader
from .sources.fetching import Fetched

if TYPE_CHECKING:
    import pyarrow as pa


def pack_rows(start: int, rows: pa.Table) -> dict[str, object]:
    """Return rows of the plan, from position `start` on, as what travels to `read_pixels`."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    # A dictionary would be that of the whole plan.
    plain = rows.set_column(rows.schema.get_field_index("file"), "file", rows.column("file").cast(pa.binary()))
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    return {"start": start, "rows": sink.getvalue().to_pybytes()}


def read_pixels(
    chunk: pa.Table,
    *,
    reader: Reader,
    size: Size,
    original_size: bool,
    image_timeout: float = TIMEOUT_S,
    color: str = STORED,
    variants: Variants = ONE,
) -> pa.Table:
    """Turn packed rows into one row a variant of each image, or one with its error.

    Columns: `position` in the plan (int64), `variant` (int32), `pixels` (binary: uint8 [*size,3], or null), `box`
    (list<float32>: left, top, right, bottom) and `flip` (bool), `width` and `height` of the upright image (int32, null
    unless `original_size`), `profile_ignored` (bool), `error` (string: why there are no pixels), and `failure`, which
    is set in a single row if the source itself failed. `image_timeout` is in seconds, for each image with all of its
    variants, `color` as for `fit_bytes`.
    """
    import pyarrow as pa

    schema = pa.schema(
        {
            "position": pa.int64(),
            "variant": pa.int32(),
            "pixels": pa.binary(),
            "box": pa.list_(pa.float32()),
            "flip": pa.bool_(),
            "width": pa.int32(),
            "height": pa.int32(),
            "profile_ignored": pa.bool_(),
            "error": pa.string(),
            "failure": pa.string(),
        }
    )
    out: list[dict[str, object]] = []
    decoding = decoder(image_timeout)
    for start, packed in zip(chunk.column("start").to_pylist(), chunk.column("rows"), strict=True):
        rows = pa.ipc.open_stream(packed.as_buffer()).read_all()
        names = rows.column("path").to_pylist()
        try:
            for number, item in enumerate(reader.read(rows)):
                found = _pixels(item, names[number], size, original_size, decoding, color, variants)
                out += [{"position": start + number, "variant": variant, **row} for variant, row in enumerate(found)]
        except CodaError as error:
            return pa.Table.from_pylist([{"position": start, "failure": failures.pack(error)}], schema)
    return pa.Table.from_pylist(out, schema)


def _pixels(
    item: Fetched, name: str, size: Size, original_size: bool, decoding: Decoder, color: str, variants: Variants
) -> list[dict[str, object]]:
    try:
        if isinstance(item, ImageError):
            raise item
        found = decoding.decode(item, name, size, original_size=original_size, color=color, variants=variants)
    except ImageError as error:
        return [{"error": one_line(error, limit=None)}]
    about = {"profile_ignored": found.profile_ignored, "width": found.width, "height": found.height}
    data, one = memoryview(found.data), len(found.data) // len(found.boxes)
    return [
        {"pixels": data[number * one : (number + 1) * one], "box": box, "flip": flip, **about}
        for number, (box, flip) in enumerate(zip(found.boxes, found.flips, strict=True))
    ]
