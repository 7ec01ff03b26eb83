"""What is timed: an operation of a loaded tokenizer on images, as calls that need nothing but their number."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.base import Session, keeps_on_device
from ..errors import InputError
from ..format import parts
from ..images import Batches
from ..tokenizer import Tokenizer
from .timing import Clock, Run

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "encode": parts.OPERATIONS["encode"],
    "encode-files": parts.OPERATIONS["encode"],
    "quantise": parts.OPERATIONS["quantize"],
    "decode": parts.OPERATIONS["decode"],
    "round-trip": parts.OPERATIONS["reconstruct"],
}
"""The parts that each operation runs, by its name in results."""

FROM_FILES = "encode-files"
"""From JPEG, PNG and other files to ids: what reads and resizes them is in it."""

_SETS = 4  # batches taken in turn: the same one again and again could stay in a cache that real work does not have
_PART_RUNS, _PART_SECONDS = 20, 2.0

Array = npt.NDArray[Any]


class Inputs:
    """What an operation works on: images, their latents or their ids. Made once, outside of what is timed.

    `images` is uint8 [N,S,S,3], of the tokenizer's size; `files` are what these were read from, as they are.

    Raises InputError for an operation on files without any.
    """

    def __init__(
        self, tok: Tokenizer, operation: str, images: npt.NDArray[np.uint8], files: Sequence[str] = ()
    ) -> None:
        self._tok, self.operation = tok, operation
        if operation == FROM_FILES and not files:
            raise InputError(f"{operation} reads files, and a bundle's samples are none; name a folder: --images DIR")
        given: Array = np.array(files, dtype=object) if operation == FROM_FILES else images
        # An engine may take no fewer than some number.
        self._rows = self._make(given[np.arange(max(len(given), tok.min_images_per_run)) % len(given)])

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, round and round through what there is: an array of its own."""
        return self._rows[np.arange(start, stop) % len(self._rows)]

    def call(self, batch: Array) -> Array:
        """Do the operation."""
        tok = self._tok
        if self.operation == FROM_FILES:
            return tok.encode(list(batch))
        if self.operation == "encode":
            return tok.encode(batch)
        if self.operation == "decode":
            return tok.decode(batch)
        if self.operation == "round-trip":
            return tok.reconstruct(batch)
        return tok.run_parts(batch, *OPERATIONS[self.operation])

    def batches(self, size: int) -> Run:
        """Return calls of `size` rows, which take a few different batches in turn."""
        sets = [self.rows(index * size, (index + 1) * size) for index in range(_SETS)]
        return lambda number: self.call(sets[number % _SETS])

    def passes(self, size: int) -> tuple[Run, int]:
        """Return calls of all rows, and their number, which is rounded up to whole batches.

        `size` go through the engines at once, or fewer where those take no more: that changes `images_per_run`.
        """
        count = -(-len(self) // size) * size
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

    def _make(self, images: Array) -> Array:
        takes = parts.PARTS[OPERATIONS[self.operation][0]].input
        if takes is parts.IMAGE:
            return images
        if takes is parts.IDS:
            return self._tok.encode(images)
        return self._tok.run_parts(images, parts.ENCODER.name)


class _Timed:
    """A session that adds up how long its runs take."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self.device, self.batch = session.device, session.batch
        self._session, self._clock = session, clock
        self.seconds = 0.0

    def run(self, batch: Array) -> Array:
        start = self._clock()
        out = self._session.run(batch)
        self.seconds += self._clock() - start
        return out

    def close(self) -> None:
        self._session.close()


def time_parts(
    tok: Tokenizer, run: Run, names: Sequence[str], *, clock: Clock = time.perf_counter
) -> dict[str, float] | None:
    """Return the median seconds of each of these parts and of the runtime around them, in calls of `run`.

    None where a part runs on a GPU: its calls return before the work is done.
    """
    timed: dict[str, _Timed] = {}
    on_device = False

    def watch(part: str, session: Session) -> Session:
        nonlocal on_device
        on_device |= part in names and keeps_on_device(session)
        timed[part] = _Timed(session, clock)
        return timed[part]

    samples: dict[str, list[float]] = {name: [] for name in (*names, "runtime")}
    with tok.replaced_parts(watch):
        start = clock()
        for number in range(0 if on_device else _PART_RUNS):
            for session in timed.values():
                session.seconds = 0.0
            before = clock()
            run(number)
            whole = clock() - before
            for part in names:
                samples[part].append(timed[part].seconds)
            samples["runtime"].append(max(0.0, whole - sum(timed[part].seconds for part in names)))
            if clock() - start >= _PART_SECONDS and number >= 2:
                break
    return None if on_device else {name: statistics.median(values) for name, values in samples.items()}


def time_reading(run: Run, *, clock: Clock = time.perf_counter) -> float:
    """Return the median seconds of calls that only read files."""
    samples: list[float] = []
    start = clock()
    for number in range(_PART_RUNS):
        before = clock()
        run(number)
        samples.append(clock() - before)
        if clock() - start >= _PART_SECONDS and number >= 2:
            break
    return statistics.median(samples)
