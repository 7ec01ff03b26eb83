"""Evaluation batches: every image once, by the official rule."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from coda_deploy.data.source import ImageSource, Skipped, attempt, check_whole
from coda_deploy.data.workers import stream
from coda_deploy.errors import DataError
from coda_runtime.format.sizes import Size, shape_of
from coda_runtime.images import differs, fit
from coda_runtime.io.counts import count


@dataclass(frozen=True)
class EvalBatch:
    """uint8 ``images`` [B,H,W,3] in RGB with their ``names``; ``skipped`` were found unreadable on the way.

    ``profiles_ignored`` names those read on the way whose colour profile is other than sRGB, and was ignored.
    """

    images: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    profiles_ignored: tuple[str, ...] = ()


def centre_batches(
    source: ImageSource, size: Size, batch_size: int, *, limit: int | None = None, workers: int = 0
) -> Generator[EvalBatch, None, None]:
    """Yield the centres of the images (``coda_runtime.images.fit``) in the order of the source.

    All batches but the last hold ``batch_size`` images. ``limit`` takes that many of the images, evenly spread over
    the source; unreadable ones among them are skipped, not replaced.

    Raises ``InputError`` for numbers that do not fit, ``DataError`` when not one image can be read.
    """
    for side in shape_of(size):
        check_whole("size", side, 1)
    check_whole("batch_size", batch_size, 1)
    check_whole("workers", workers, 0)
    if limit is not None:
        check_whole("limit", limit, 1)
    count = len(source) if limit is None else min(limit, len(source))
    return _regroup(_Centres(source, size, batch_size, count), workers)


@dataclass(frozen=True)
class _Part:
    images: list[npt.NDArray[np.uint8]]
    names: list[str]
    skipped: list[Skipped]
    ignored: list[str]

    def take(self, count: int) -> EvalBatch:
        """Take the first images, and all that is told beside them."""
        batch = EvalBatch(
            np.stack(self.images[:count]), tuple(self.names[:count]), tuple(self.skipped), tuple(self.ignored)
        )
        del self.images[:count], self.names[:count]
        self.skipped.clear()
        self.ignored.clear()
        return batch


@dataclass(frozen=True)
class _Centres(Dataset[_Part | DataError]):
    """The images asked for, in runs of ``batch_size`` by number, without the unreadable ones."""

    source: ImageSource
    size: Size
    batch_size: int
    count: int

    def __getitem__(self, number: int) -> _Part | DataError:
        part = _Part([], [], [], [])
        for position in range(number * self.batch_size, min((number + 1) * self.batch_size, self.count)):
            index = position * len(self.source) // self.count
            try:
                found = attempt(self.source, index, self._fit)
            except DataError as error:
                return error
            if isinstance(found, Skipped):
                part.skipped.append(found)
            else:
                image, ignored = found
                name = self.source.name(index)
                part.images.append(image)
                part.names.append(name)
                part.ignored.extend([name] if ignored else [])
        return part

    def _fit(self, image: Image.Image) -> tuple[npt.NDArray[np.uint8], bool]:
        return fit(image, self.size), differs(image)


def _regroup(centres: _Centres, workers: int) -> Generator[EvalBatch, None, None]:
    """Yield full batches from partial ones in which some images are missing."""
    waiting = _Part([], [], [], [])
    first_skipped: Skipped | None = None
    size = centres.batch_size
    with closing(stream(centres, range(math.ceil(centres.count / size)), workers)) as parts:
        for part in parts:
            waiting.images.extend(part.images)
            waiting.names.extend(part.names)
            waiting.skipped.extend(part.skipped)
            waiting.ignored.extend(part.ignored)
            first_skipped = first_skipped or next(iter(part.skipped), None)
            # More than a batch, so that one is left to tell of images skipped at the end.
            if len(waiting.images) > size:
                yield waiting.take(size)
    if waiting.images:
        yield waiting.take(size)
    elif first_skipped is None:
        raise DataError("the source holds no images; expected at least one")
    else:
        raise DataError(
            f"none of {count(centres.count, 'image')} can be read; the first, {first_skipped.name}: "
            f"{first_skipped.reason}"
        )
