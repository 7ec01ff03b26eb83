"""What is timed: an operation of a loaded tokenizer on images, as calls that need nothing but their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import on_gpu
from ..backends.base import DeviceSession, Session, keeps_on_device
from ..errors import InputError
from ..format import parts
from ..images import Batches
from ..tokenizer import Tokenizer
from .timing import Run

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "encode": parts.OPERATIONS["encode"],
    "encode-files": parts.OPERATIONS["encode"],
    "encode-device": parts.OPERATIONS["encode"],
    "quantise": parts.OPERATIONS["quantize"],
    "decode": parts.OPERATIONS["decode"],
    "decode-device": parts.OPERATIONS["decode"],
    "round-trip": parts.OPERATIONS["reconstruct"],
}
"""The parts that each operation runs, by its name in results."""

FROM_FILES = "encode-files"
"""From JPEG, PNG and other files to ids: what reads and resizes them is in it."""

ON_DEVICE: Mapping[str, str] = {"encode-device": "encode", "decode-device": "decode"}
"""As the operation beside it, from and to arrays that lie where the parts run: no copies to and from a GPU."""

_SETS = 4  # batches taken in turn: the same one again and again could stay in a cache that real work does not have

Array = npt.NDArray[Any]


class Inputs:
    """What an operation works on: images, their latents or their ids. Made once, outside of what is timed.

    `images` is uint8 [N,S,S,3], of the tokenizer's size; `files` are what these were read from, as they are.

    Raises InputError for an operation on files without any, and for one of ON_DEVICE whose parts share no device.
    """

    def __init__(
        self, tok: Tokenizer, operation: str, images: npt.NDArray[np.uint8], files: Sequence[str] = ()
    ) -> None:
        self._tok, self.operation = tok, operation
        if operation == FROM_FILES and not files:
            raise InputError(f"{operation} reads files, and a bundle's samples are none; name a folder: --images DIR")
        given: Array = np.array(files, dtype=object) if operation == FROM_FILES else images
        self._home = _home(tok, operation) if operation in ON_DEVICE else None
        # An engine may take no fewer than some number.
        self._rows = self._make(given[np.arange(max(len(given), tok.min_images_per_run)) % len(given)])

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, round and round through what there is: an array of its own."""
        return self._rows[np.arange(start, stop) % len(self._rows)]

    def call(self, batch: Any) -> Any:
        """Do the operation, and wait for it: what stays on a GPU may come back before it is done."""
        tok, operation = self._tok, ON_DEVICE.get(self.operation, self.operation)
        out: Any
        if operation == FROM_FILES:
            out = tok.encode(list(batch))
        elif operation == "encode":
            out = tok.encode(batch)
        elif operation == "decode":
            out = tok.decode(batch)
        elif operation == "round-trip":
            out = tok.reconstruct(batch)
        else:
            out = tok.run_parts(batch, *OPERATIONS[operation])
        if on_gpu(out):
            out.wait()
        return out

    def batches(self, size: int) -> Run:
        """Return calls of `size` rows, which take a few different batches in turn."""
        sets = [self.placed(index * size, (index + 1) * size) for index in range(_SETS)]
        return lambda number: self.call(sets[number % _SETS])

    def passes(self, size: int) -> tuple[Run, int]:
        """Return calls of all rows, and their number, which is rounded up to whole batches.

        `size` go through the engines at once, or fewer where those take no more: that changes `images_per_run`.
        """
        count = -(-len(self) // size) * size
        if self.operation in ON_DEVICE:  # arrays that lie on a GPU are taken in batches
            pieces = [self.placed(start, start + size) for start in range(0, count, size)]
            return lambda _: [self.call(piece) for piece in pieces], count
        everything = self.rows(0, count)
        self._tok.images_per_run = min(size, self._tok.images_per_run)
        return lambda _: self.call(everything), count

    def requests(self) -> Callable[[int, int], object]:
        """Return calls of the rows `start` to `stop`."""
        return lambda start, stop: self.call(self.rows(start, stop))

    def read(self, size: int) -> Run | None:
        """Return calls that read as many files as `batches` encode, and no more; None of what reads none."""
        if self.operation != FROM_FILES:
            return None
        sets = [list(self.rows(index * size, (index + 1) * size)) for index in range(_SETS)]

        def call(number: int) -> object:
            files = sets[number % _SETS]
            return Batches(files, self._tok.spec.image_size).take(slice(0, len(files)))

        return call

    def placed(self, start: int, stop: int) -> Any:
        """Return those rows where the operation takes them from."""
        rows = self.rows(start, stop)
        if self.operation not in ON_DEVICE:
            return rows
        if self._home is None:
            return _Lent(rows)
        placed = self._home.put(rows)
        placed.wait()
        return placed

    def _make(self, images: Array) -> Array:
        takes = parts.PARTS[OPERATIONS[self.operation][0]].input
        if takes is parts.IMAGE:
            return images
        if takes is parts.IDS:
            return self._tok.encode(images)
        return self._tok.run_parts(images, parts.ENCODER.name)


class _Lent:
    """An array in host memory that shows nothing but DLPack's protocol, as one of another library."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def _home(tok: Tokenizer, operation: str) -> DeviceSession | None:
    """Return a session on the GPU that an operation takes arrays from, None where all of it runs in host memory."""
    sessions: dict[str, Session] = {}
    with tok.replaced_parts(lambda part, session: sessions.setdefault(part, session)):
        used = [sessions[part] for part in OPERATIONS[operation]]
    if not any(session.device.startswith("cuda") for session in used):
        return None
    first = used[0]
    if keeps_on_device(first) and all(keeps_on_device(other) and other.device == first.device for other in used):
        return first
    where = ", ".join(f"{part} on {sessions[part].device}" for part in OPERATIONS[operation])
    raise InputError(
        f"{operation} takes arrays from the one GPU that all of its parts run on, and they run otherwise ({where}); "
        f"name a backend and a device that run all of them, or measure {ON_DEVICE[operation]}, which copies"
    )
