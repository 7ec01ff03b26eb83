"""Training batches as an exact function of the seed and the number of the batch."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coda_deploy.data.crop import Crop
from coda_deploy.data.source import ImageSource, Skipped, attempt, check_whole
from coda_deploy.data.workers import stream
from coda_deploy.errors import DataError
from coda_runtime.errors import InputError
from coda_runtime.format.sizes import shape_of
from coda_runtime.images import differs
from coda_runtime.io.counts import count

_Cut = tuple[npt.NDArray[np.uint8], bool]  # the pixels, and whether a colour profile was ignored

_PROBES = 8
_MAX_FAILURES = 100
_ORDER, _CROP = 0, 1  # what is drawn: streams of the same seed that have nothing in common


@dataclass(frozen=True)
class TrainBatch:
    """uint8 ``images`` [B,size,size,3] in RGB, ``names`` of the image that each came from.

    ``skipped`` are the images that were found unusable while it was made, ``profiles_ignored`` those whose colour
    profile is other than sRGB and was ignored; each worker tells of an image once.
    """

    images: Tensor
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    profiles_ignored: tuple[str, ...] = ()

    def pin_memory(self) -> TrainBatch:
        """Return the batch with its images in page-locked memory, from which a GPU copies while others compute."""
        return replace(self, images=self.images.pin_memory())


class TrainLoader:
    """Endless batches; batch number n is the same whenever, and on however many processes, it is asked for.

    The images are an endless sequence: one permutation of the source after another, each drawn from (seed, epoch).
    Position p of the sequence is item p % N of epoch p // N; its crop is drawn from (seed, p). Batch n of process
    ``rank`` out of ``world`` has the positions ``(n * world + rank) * batch_size + [0, batch_size)``.

    In place of an image that cannot be used stands the next of the source that can. The order is numpy's to draw:
    equal for equal versions of numpy, and as numpy's policy has it (NEP 19) hardly ever changed between them.

    ``pinned`` batches are in page-locked memory, which takes a GPU.

    Raises ``InputError`` for numbers that do not fit, ``DataError`` when none of a few images tried can be used.
    """

    def __init__(
        self,
        source: ImageSource,
        crop: Crop,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pinned: bool = False,
    ) -> None:
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("rank", rank, 0),
            ("world", world, 1),
            ("workers", workers, 0),
        ):
            check_whole(name, value, minimum)
        if rank >= world:
            raise InputError(f"rank must be under world ({world}), found {rank}")
        if seed >= 2**64:
            raise InputError(f"seed must be under 2**64, found {seed}")
        self.source = source
        self.crop = crop
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.workers = workers
        self.pinned = pinned
        _probe(source, crop)

    def batches(self, start: int = 0) -> Generator[TrainBatch, None, None]:
        """Yield batches ``start``, ``start + 1``, ... without end; close the iterator to stop the workers.

        Raises ``DataError`` after 100 unusable images in a row, and when the source or a worker breaks.
        """
        check_whole("start", start, 0)
        made = _Batches(self.source, self.crop, self.batch_size, self.seed, self.rank, self.world)
        return stream(made, itertools.count(start), self.workers, pinned=self.pinned)

    def epoch(self, batch: int) -> float:
        """Return how many times the whole source has been seen before batch number ``batch``."""
        return batch * self.world * self.batch_size / len(self.source)


@dataclass
class _Batches(Dataset[TrainBatch | DataError]):
    """Batches by number, in one process."""

    source: ImageSource
    crop: Crop
    batch_size: int
    seed: int
    rank: int
    world: int
    _bad: set[int] = field(default_factory=set)
    _ignored: set[int] = field(default_factory=set)
    _order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __getitem__(self, number: int) -> TrainBatch | DataError:
        first = (number * self.world + self.rank) * self.batch_size
        images = np.empty((self.batch_size, *shape_of(self.crop.size), 3), np.uint8)
        names: list[str] = []
        skipped: list[Skipped] = []
        ignored: list[str] = []
        try:
            for row in range(self.batch_size):
                index, (images[row], has_profile) = self._find(first + row, skipped)
                names.append(self.source.name(index))
                if has_profile and index not in self._ignored:
                    self._ignored.add(index)
                    ignored.append(names[-1])
        except DataError as error:
            return error
        return TrainBatch(torch.from_numpy(images), tuple(names), tuple(skipped), tuple(ignored))

    def _find(self, position: int, skipped: list[Skipped]) -> tuple[int, _Cut]:
        """Return the first usable image from this position on, and what was cut of it; adds to ``skipped``."""
        wanted = self._index(position)
        total = len(self.source)
        tries = min(total, _MAX_FAILURES)
        for step in range(tries):
            index = (wanted + step) % total
            if index in self._bad:
                continue
            found = self._cut(index, position)
            if not isinstance(found, Skipped):
                return index, found
            self._bad.add(index)
            skipped.append(found)
        first = self._cut(wanted, position)
        if not isinstance(first, Skipped):  # it can be read again: a disk that was away is back
            return wanted, first
        raise DataError(f"{count(tries, 'image')} in a row cannot be used; the first, {first.name}: {first.reason}")

    def _cut(self, index: int, position: int) -> _Cut | Skipped:
        # A new generator for each try, so that a crop depends on nothing that was tried before.
        rng = _rng(self.seed, _CROP, position)
        return attempt(self.source, index, lambda image: (self.crop(image, rng), differs(image)))

    def _index(self, position: int) -> int:
        epoch, item = divmod(position, len(self.source))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, _rng(self.seed, _ORDER, epoch).permutation(len(self.source))
        return int(self._order[1][item])


def _rng(seed: int, what: int, number: int) -> np.random.Generator:
    # Not [seed, what, number]: numpy fills short seeds up with zeros, so that [7, 1] and [7, 1, 0] are the same.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(what, number)))


def _probe(source: ImageSource, crop: Crop) -> None:
    """Raise ``DataError`` if of a few images, evenly spread, none can be used."""
    total = len(source)
    if total == 0:
        raise DataError("the source holds no images; expected at least one")
    tried = [index * total // min(total, _PROBES) for index in range(min(total, _PROBES))]
    failures = []
    for index in tried:
        found = attempt(source, index, lambda image: crop(image, np.random.default_rng(0)))
        if not isinstance(found, Skipped):
            return
        failures.append(found)
    raise DataError(
        f"none of {count(len(tried), 'image')} tried, of {total}, can be used; the first, {failures[0].name}: "
        f"{failures[0].reason}"
    )
