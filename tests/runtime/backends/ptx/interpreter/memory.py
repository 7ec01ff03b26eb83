"""The memory of a launch: global buffers, each in a part of the address space of its own, and every block's shared one.

Between two buffers lie 2^40 bytes, more than a 32-bit index reaches: what strays from its buffer is in no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tests.runtime.backends.ptx.interpreter.faults import LaunchError, MisalignedError, OutOfBoundsError
from tests.runtime.backends.ptx.interpreter.hazards import Array, Words

_APART = 40
_ALIGNMENT = 16
"""Of a buffer, bytes: no more than the compiler was promised."""
SHARED_BASE = 1024
"""Where a block's shared memory begins, bytes."""


class GlobalMemory:
    """Buffers by name."""

    def __init__(self) -> None:
        self._buffers: list[Words] = []
        self._whole: dict[str, int] = {}
        self.addresses: dict[str, int] = {}

    def add(self, name: str, array: Array) -> None:
        """Put a constant there, of any 32-bit dtype: no kernel may write to it."""
        words = np.ascontiguousarray(array).view(np.uint32).reshape(-1)
        self._append(name, Words(name, len(words), constant=words))

    def add_scratch(self, name: str, count: int) -> None:
        """Put `count` words there that nobody wrote."""
        self._append(name, Words(name, count))
        self._whole[name] = count

    def _append(self, name: str, words: Words) -> None:
        self._buffers.append(words)
        self.addresses[name] = (len(self._buffers) << _APART) + _ALIGNMENT

    def fetch(self, name: str, dtype: type, shape: Sequence[int]) -> tuple[Array, Array]:
        """Return what a buffer holds, and whether it was written, word by word; both of `shape`."""
        words = self._buffers[(self.addresses[name] >> _APART) - 1]
        return words.data[: words.count].view(dtype).reshape(shape), words.written.reshape(shape)

    def clear(self, name: str, count: int) -> None:
        """Make a scratch buffer one of `count` words, which nobody wrote; they have to fit in what it was."""
        place = (self.addresses[name] >> _APART) - 1
        if count > self._whole[name]:
            raise LaunchError(f"{name} is to hold {count} words, and has {self._whole[name]}")
        self._buffers[place] = Words(name, count)

    def begin(self, threads: int) -> None:
        """Start a launch of `threads` a block."""
        for words in self._buffers:
            words.begin(threads)

    def load(self, address: Array, width: int, lane: Array, epoch: Array) -> Array:
        """Return uint32 [lanes, width] from addresses in bytes, int64 [lanes]."""
        out = np.empty((len(address), width), np.uint32)
        for words, here, row in self._find(address, width, lane, "reads"):
            out[here] = words.read(row, width, lane[here], epoch[here])
        return out

    def store(self, address: Array, values: Array, lane: Array, epoch: Array) -> None:
        """Store uint32 [lanes, width]."""
        for words, here, row in self._find(address, values.shape[1], lane, "writes"):
            words.write(row, values[here], lane[here], epoch[here])

    def _find(self, address: Array, width: int, lane: Array, does: str) -> Iterator[tuple[Words, slice | Array, Array]]:
        """Yield every buffer that is addressed, with the lanes that do, and rows of `width` words in it."""
        which = (address + (1 << _APART - 1)) >> _APART
        for number in [which[0]] if (which == which[0]).all() else np.unique(which):
            here = slice(None) if (which == number).all() else which == number
            offset, who = address[here] - (number << _APART) - _ALIGNMENT, lane[here]
            if not 1 <= number <= len(self._buffers):
                raise OutOfBoundsError(f"{does} at {int(address[here][0]):#x}, where nothing is", int(who[0]))
            words = self._buffers[number - 1]
            yield words, here, _rows(offset, width, words, who, does)


class SharedMemory:
    """The shared memory of a few blocks, which see nothing of each other's; `first` is the first of them."""

    def __init__(self, blocks: int, size: int, threads: int, first: int) -> None:
        self._size, self._threads, self._first = size // 4, threads, first
        # Of each block's words, to whole vectors.
        self._each = -(-self._size // 4) * 4
        self._words = Words("shared memory", blocks * self._each, threads)

    def barrier(self, lanes: Array | None) -> None:
        """Let lanes pass a barrier: see `Words`."""
        self._words.barrier(lanes)

    def load(self, address: Array, width: int, lane: Array, epoch: Array) -> Array:
        """Return uint32 [lanes, width] from addresses in bytes, int64 [lanes]."""
        return self._words.read(self.rows(address, width, lane, "reads"), width, lane, epoch)

    def store(self, address: Array, values: Array, lane: Array, epoch: Array, *, owed: bool = False) -> None:
        """Store uint32 [lanes, width]; `owed` says that it ends what `owe` began."""
        self._words.write(self.rows(address, values.shape[1], lane, "writes"), values, lane, epoch, owed=owed)

    def owe(self, address: Array, width: int, lane: Array, epoch: Array) -> None:
        """Start an asynchronous store, which `store` ends."""
        self._words.owe(self.rows(address, width, lane, "copies"), width, lane, epoch)

    def rows(self, address: Array, width: int, lane: Array, does: str) -> Array:
        """Return where the addresses lie among all blocks' words, in rows of `width`."""
        own = _rows(address - SHARED_BASE, width, self._words, lane, does, self._size)
        return own + (lane // self._threads - self._first) * (self._each // width)


def _rows(offset: Array, width: int, words: Words, lane: Array, does: str, count: int | None = None) -> Array:
    size, length = 4 * width, 4 * (words.count if count is None else count)
    bad = (offset < 0) | (offset + size > length)
    if bad.any():
        first = int(bad.argmax())
        where = f"byte {offset[first]} of {words.name}, which has {length}"
        raise OutOfBoundsError(f"{does} {size} bytes at {where}", int(lane[first]))
    if (offset % size).any():
        first = int((offset % size != 0).argmax())
        raise MisalignedError(f"{does} {size} bytes at byte {offset[first]} of {words.name}", int(lane[first]))
    return offset // size
