"""Tokens in an order drawn anew each epoch, for many readers that share them and may stop at any row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..io.counts import count
from .folder import TokenFolder
from .mapped import ABOUT, MappedTokens

WINDOW = 16_384
"""Images that are in memory together and shuffled among each other."""


def open_tokens(where: str | os.PathLike[str]) -> TokenFolder | MappedTokens:
    """Open what `coda tokenize` or `coda tokens convert --to npy` wrote. Raises OutputError, InputError."""
    return MappedTokens(where) if (Path(where) / ABOUT).exists() else TokenFolder(where)


@dataclass(frozen=True)
class Piece:
    """Neighbours in the order of an epoch: `ids` [n,L] as they are stored, `labels` of them if there are any."""

    ids: npt.NDArray[Any]
    labels: list[Any] | None


@dataclass(frozen=True)
class Order:
    """One epoch's images, divided evenly among `parts` readers.

    Whole blocks (row groups) are shuffled, and then the images among the `window` that are read together, each image
    once: of several variants one is drawn. Without `shuffle` the images come as they are stored, with their first
    variant. Every part has the same number of images with `even`: up to parts - 1 are left out, others in each epoch.
    Orders of equal arguments are equal, on every machine and whatever was read before.

    Raises InputError for numbers that do not fit.
    """

    folder: TokenFolder | MappedTokens
    epoch: int = 0
    part: int = 0
    parts: int = 1
    seed: int = 0
    shuffle: bool = True
    even: bool = True
    window: int = WINDOW

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise InputError(f"part is {self.part} of {self.parts}; expected one from 0 to {self.parts - 1}")
        if not 0 <= self.epoch < 2**32:
            raise InputError(f"epoch is {self.epoch}; expected one from 0 to {2**32 - 1}")
        if self.window < 1:
            raise InputError(f"window is {self.window}; expected 1 or more")

    def __len__(self) -> int:
        start, stop = self._span()
        return stop - start

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """Yield the images of this part, but the first `skip`, in pieces of up to `window`. Raises OutputError."""
        start, stop = self._span()
        if not 0 <= skip <= stop - start:
            raise InputError(f"{count(skip, 'image')} to skip, and there are {stop - start}")
        images = self.folder.block_rows() // self.folder.variants
        order = self._random(0).permutation(len(images)) if self.shuffle else np.arange(len(images))
        ends = np.cumsum(images[order])
        for number in range(skip // self.window, -(-(stop - start) // self.window)):
            first = start + number * self.window
            piece = self._piece(first, min(first + self.window, stop), order, ends, images)
            given = max(0, skip - number * self.window)
            yield Piece(piece.ids[given:], None if piece.labels is None else piece.labels[given:])

    def _piece(
        self,
        first: int,
        last: int,
        order: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        images: npt.NDArray[np.int64],
    ) -> Piece:
        random = self._random(1 + first)
        images_here = last - first
        place = random.permutation(images_here) if self.shuffle else np.arange(images_here)
        variants = self.folder.variants
        drawn = random.randint(variants, size=images_here) if self.shuffle else np.zeros(images_here, np.int64)
        out: npt.NDArray[Any] | None = None
        labels: list[Any] | None = None
        done = 0
        for at in range(int(np.searchsorted(ends, first, "right")), len(order)):
            block = int(order[at])
            begin = int(ends[at]) - int(images[block])
            if begin >= last:
                break
            low, high = max(first, begin) - begin, min(last, int(ends[at])) - begin
            here = slice(done, done + high - low)
            ids, known = self.folder.block(block)
            if out is None:
                out = np.empty((images_here, ids.shape[1]), ids.dtype)
                labels = [None] * images_here if known is not None else None
            rows = np.arange(low, high) * variants + drawn[here]
            out[place[here]] = ids[low:high] if variants == 1 else ids[rows]  # neighbours need not be gathered first
            if known is not None and labels is not None:
                for to, row in zip(place[here].tolist(), rows.tolist(), strict=True):
                    labels[to] = known[row]
            done += high - low
        if out is None:
            raise InputError(f"{self.folder!r} has no rows")
        return Piece(out, labels)

    def _span(self) -> tuple[int, int]:
        total = len(self.folder) // self.folder.variants
        if self.even:
            total -= total % self.parts
        return self.part * total // self.parts, (self.part + 1) * total // self.parts

    def _random(self, what: int) -> np.random.RandomState:
        """Return numbers that are the same for the same epoch, in every version of NumPy."""
        return np.random.RandomState([self.seed & 0xFFFFFFFF, self.epoch, what & 0xFFFFFFFF, what >> 32])
