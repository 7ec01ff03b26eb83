"""Words of memory that know who wrote and who read them since the last barrier."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.runtime.backends.ptx.interpreter.faults import RaceError, UninitialisedError, WriteToInputError

Array = np.ndarray[Any, np.dtype[Any]]

POISON = np.uint32(0xFFF0DEAD)
"""What memory holds before it is written: NaN as a float, and negative as an index."""
_NOBODY, _EVERYBODY = -1, np.iinfo(np.int64).min
# Where several threads of one block did something, their block b stands for them, as _SEVERAL - b.
_SEVERAL = -2


class Words:
    """An array of 32-bit words, used by many threads at once.

    A lane is a thread, counted over all blocks of the launch; an epoch counts the barriers that it has passed. Two
    accesses to a word, one of them a store, are a race where their lanes are of different blocks, or differ within one
    epoch. Stores of equal values are none. Rows are vectors of `width` words, aligned. `name` goes into messages.
    """

    def __init__(self, name: str, count: int, threads: int = 1, constant: Array | None = None) -> None:
        """Hold `count` words: those of `constant`, which nobody may write to, or else nothing yet."""
        self.name, self.count, self.constant = name, count, constant is not None
        self.data = np.full(count + -count % 4, POISON, np.uint32)
        self._writer = np.full(len(self.data), _NOBODY, np.int64)
        self._written = np.zeros(len(self.data), bool)
        self._owed = np.zeros(len(self.data), bool)
        if constant is not None:
            self.data[:count], self._written[:count] = constant, True
        self.begin(threads)

    def begin(self, threads: int) -> None:
        """Start a launch of `threads` a block: what was done before it is done for all."""
        self._threads = threads
        self._reads: list[tuple[Array, int, Array, Array]] = []
        self._written_since = False
        self._writer[:] = _NOBODY
        self._reader: Array | None = None

    @property
    def written(self) -> Array:
        """Whether each word was ever written, bool [count]."""
        return self._written[: self.count]

    def barrier(self, lanes: Array | None) -> None:
        """Forget what `lanes`, all if None, read before a barrier: only for words that one block uses alone."""
        if lanes is None:
            self._reads.clear()
            self._written_since = False
            return
        passed = [(row, width, ~np.isin(lane, lanes), lane, epoch) for row, width, lane, epoch in self._reads]
        self._reads = [(row[keep], width, lane[keep], epoch[keep]) for row, width, keep, lane, epoch in passed]

    def read(self, row: Array, width: int, lane: Array, epoch: Array) -> Array:
        """Return uint32 [lanes, width]. `row`, `lane` and `epoch` are int64 [lanes]."""
        values = self.data.reshape(-1, width)[row]
        suspect = values == POISON
        if suspect.any():
            at = _places(row, width)
            self._fail(suspect & self._owed[at], row, width, lane, UninitialisedError, "reads what a copy still owes")
            self._fail(suspect & ~self._written[at], row, width, lane, UninitialisedError, "reads what nobody wrote")
        if self._written_since:
            at = _places(row, width)
            clash = self._clash(self._writer[at], self._write_epoch[at], lane[:, None], epoch[:, None])
            self._fail(clash, row, width, lane, RaceError, "reads what another thread wrote, with no barrier between")
        if not self.constant:
            self._reads.append((row, width, lane, epoch))
        return values

    def write(self, row: Array, values: Array, lane: Array, epoch: Array, *, owed: bool = False) -> None:
        """Store uint32 [lanes, width]; `owed` says that it ends what `owe` began."""
        width = values.shape[1]
        if self.constant:
            raise WriteToInputError(f"writes to {self.name}, which is an input", int(lane[0]))
        at = _places(row, width)
        if not owed:
            self._fail(self._owed[at], row, width, lane, RaceError, "writes to where a copy is under way")
        self._claim(at, row, width, values, lane, epoch)
        self.data[at], self._written[at], self._owed[at] = values, True, False
        lost = self.data[at] != values
        self._fail(lost, row, width, lane, RaceError, "writes what another thread writes at once")

    def owe(self, row: Array, width: int, lane: Array, epoch: Array) -> None:
        """Start an asynchronous store: until `write` ends it, the words hold nothing."""
        at = _places(row, width)
        nothing = np.full(at.shape, POISON, np.uint32)
        self._claim(at, row, width, nothing, lane, epoch)
        self._fail(self._owed[at], row, width, lane, RaceError, "copies to where a copy is under way")
        self.data[at], self._owed[at] = nothing, True

    def _claim(self, at: Array, row: Array, width: int, values: Array, lane: Array, epoch: Array) -> None:
        """Look for races of a store, and note who it is by."""
        who, when = np.broadcast_to(lane[:, None], at.shape), np.broadcast_to(epoch[:, None], at.shape)
        self._flush_reads()
        if self._reader is not None:
            clash = self._clash(self._reader[at], self._read_epoch[at], who, when)
            self._fail(clash, row, width, lane, RaceError, "writes what another thread reads, with no barrier between")
        if not self._written_since:
            self._write_epoch = np.full(len(self.data), -1, np.int64)
            self._written_since = True
        clash = self._clash(self._writer[at], self._write_epoch[at], who, when) & (self.data[at] != values)
        self._fail(clash, row, width, lane, RaceError, "writes what another thread wrote, with no barrier between")
        self._note(self._writer, self._write_epoch, at, who, when)

    def _flush_reads(self) -> None:
        if self._reads and self._reader is None:
            self._reader = np.full(len(self.data), _NOBODY, np.int64)
            self._read_epoch = np.full(len(self.data), -1, np.int64)
        for row, width, lane, epoch in self._reads:
            at = _places(row, width)
            who, when = np.broadcast_to(lane[:, None], at.shape), np.broadcast_to(epoch[:, None], at.shape)
            self._note(self._reader, self._read_epoch, at, who, when)
        self._reads.clear()

    def _note(self, whose: Any, epochs: Array, at: Array, who: Array, when: Array) -> None:
        """Record who used the words last: of several lanes their block, of several blocks that there are several."""
        before, block = whose[at], who // self._threads
        new = np.where(
            (before == _NOBODY) | (before == who) | ((self._block(before) == block) & (epochs[at] < when)),
            who,
            np.where(self._block(before) == block, _SEVERAL - block, _EVERYBODY),
        )
        whose[at], epochs[at] = new, when
        # Of lanes that used one word at once, the last one stands there now.
        stands = whose[at]
        beaten = stands != new
        if beaten.any():
            places, blocks = at[beaten], block[beaten]
            whose[places] = _SEVERAL - blocks
            whose[places[self._block(stands[beaten]) != blocks]] = _EVERYBODY

    def _block(self, whose: Array) -> Array:
        return np.where(whose >= 0, whose // self._threads, _SEVERAL - whose)

    def _clash(self, whose: Array, epochs: Array, lane: Array, epoch: Array) -> Array:
        """Return where somebody else of `whose` is not kept apart by a barrier from `lane`."""
        other_block = self._block(whose) != lane // self._threads
        return (whose != _NOBODY) & (whose != lane) & (other_block | (epochs == epoch))

    def _fail(self, bad: Array, row: Array, width: int, lane: Array, error: Any, what: str) -> None:
        if bad.any():
            first, word = np.argwhere(bad)[0]
            where = f"byte {4 * (int(row[first]) * width + int(word))} of {self.name}"
            raise error(f"{what}: {where}", int(lane[first]))


def _places(row: Array, width: int) -> Array:
    return row[:, None] * width + np.arange(width)
