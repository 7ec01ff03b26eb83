"""The second step of the pipeline: from pixels to ids, in an actor that has loaded the bundle."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..backends.base import LoadOptions
from ..errors import ChecksumError, CodaError
from ..format.bundle import Bundle
from ..format.parts import IDS, IMAGE, OPERATIONS
from ..loading import open_tokenizer
from ..tokenizer import Tokenizer
from . import failures
from .plan import tokenizer_files

if TYPE_CHECKING:
    import pyarrow as pa


class Encoder:
    """Loads a bundle at the first call, and keeps it.

    `bundle` is a path that every node sees, or a Hub id. `tokenizer` is the plan's: another bundle at the same path, on
    this node, is refused.
    """

    def __init__(self, bundle: str, options: LoadOptions, tokenizer: dict[str, str]) -> None:
        self._bundle, self._options = bundle, options
        self._expected = tokenizer
        self._tok: Tokenizer | None = None
        self._made_by = ""

    def __call__(self, images: pa.Table) -> pa.Table:
        """Return what `read_pixels` gave, with `ids` (list<int32>, empty on errors) and `made_by` instead of `pixels`.

        `made_by` is JSON, a list of what each part ran on.
        """
        import pyarrow as pa

        failure = images.column("failure")
        ids = np.empty((0, 1), np.int32)
        if failure.null_count == len(failure):
            try:
                ids = self._encode(images.column("pixels"))
            except CodaError as error:
                failure = pa.array([failures.pack(error)] * len(failure), pa.string())
        readable = np.asarray(images.column("error").is_null()) & (len(ids) > 0)
        offsets = np.concatenate([[0], np.cumsum(readable * ids.shape[1])]).astype(np.int32)
        kept = ("position", "variant", "box", "flip", "width", "height", "profile_ignored", "error")
        columns = {name: images.column(name) for name in kept}
        columns["ids"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids.ravel(), pa.int32()))
        columns["made_by"] = pa.array([self._made_by] * len(images), pa.string())
        return pa.table({**columns, "failure": failure})

    def _encode(self, column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """Encode a column of pixels -> int32 [n,L], n without the nulls. Raises CodaError."""
        tok = self._open() if self._tok is None else self._tok
        pixels = _bytes_of(column).reshape(-1, *IMAGE.row(tok.spec))
        return tok.encode(pixels) if len(pixels) else np.empty(IDS.shape(tok.spec, 0), IDS.dtype)

    def _open(self) -> Tokenizer:
        tok = self._tok = open_tokenizer(self._bundle, self._options)
        found = tokenizer_files(Bundle.open(tok.folder), self._options.precision)
        if found != self._expected:
            raise ChecksumError(
                f"{tok.folder} holds another tokenizer on this node than on the one that started the run; copy the "
                "bundle there again"
            )
        parts = [artifact for artifact in tok.artifacts if artifact.part in OPERATIONS["encode"]]
        keys = ("part", "format", "precision", "backend", "device")
        self._made_by = json.dumps([{k: v for k, v in dataclasses.asdict(a).items() if k in keys} for a in parts])
        return tok


def _bytes_of(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Return the bytes of all values of a binary column, one after the other, without a copy where possible."""
    arrays: list[Any] = []
    for chunk in column.chunks:
        values = chunk.drop_null() if chunk.null_count else chunk
        if len(values):
            offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
            arrays.append(np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]])
    if not arrays:
        return np.empty(0, np.uint8)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
