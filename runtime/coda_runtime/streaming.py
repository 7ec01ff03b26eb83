"""Images of any number to ids, in their order and in bounded memory: read ahead by threads, run in batches."""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import ImageError, InputError
from .format.sizes import Size
from .images import IgnoredProfiles, ImageLike, Pixels, fit
from .machine.processors import usable_count

MAX_WORKERS = 64
MAX_BATCH = 65_536
_DEFAULT_WORKERS = 8  # each holds an image in its own size

Ids = npt.NDArray[np.int32]
T = TypeVar("T", bound="ImageLike")


@dataclass(frozen=True, eq=False)
class Encoded(Generic[T]):
    """What became of one image: `path` is what was given for it, `ids` int32 [L], or None and the `error` why.

    Exactly one of `ids` and `error` is None.
    """

    path: T
    ids: Ids | None
    error: ImageError | None = None


class Stream(Generic[T]):
    """The images of one call of `encode_iter`, as many read ahead as `ahead` says."""

    def __init__(self, paths: Iterable[T], size: Size, color: str, batch_size: int, workers: int | None) -> None:
        """`size` is what images are fitted to. Raises InputError for numbers out of range."""
        workers = min(usable_count(), _DEFAULT_WORKERS) if workers is None else workers
        for name, value, most in (("batch_size", batch_size, MAX_BATCH), ("workers", workers, MAX_WORKERS)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InputError(f"{name} is {value!r}; expected a whole number from 1 to {most}, or None")
        if isinstance(paths, (str, os.PathLike)):
            raise InputError(f"paths is one path, {os.fspath(paths)!r}; expected several: put it in brackets, [path]")
        self._paths, self._size, self._color = iter(enumerate(paths)), size, color
        self.batch_size, self.workers = batch_size, workers
        self.ahead = batch_size + workers
        """Images that are being read, or have been and wait for their batch."""
        self._ignored = IgnoredProfiles()
        self._one_opened = threading.Lock()
        self._failure: Exception | None = None

    def run(self, encode: Callable[[Pixels], Ids]) -> Generator[Encoded[T], None, None]:
        """Yield what becomes of each image; `encode` turns uint8 [B,H,W,3] into int32 [B,L], B up to `batch_size`.

        Raises what `encode` does, and what came of iterating over the paths once all before it are yielded.
        """
        waiting: deque[tuple[T, Future[Pixels | ImageError]]] = deque()
        pool = ThreadPoolExecutor(self.workers, "coda-reader")
        try:
            while True:
                self._read_ahead(pool, waiting)
                batch: list[tuple[T, Pixels | ImageError]] = []
                while waiting and len(batch) < self.batch_size:
                    path, future = waiting.popleft()
                    batch.append((path, future.result()))
                if not batch:
                    break
                self._read_ahead(pool, waiting)  # while the batch runs
                yield from _encoded(batch, encode)
            if self._failure is not None:
                raise self._failure
        except GeneratorExit:
            self._tell()
            raise
        else:
            self._tell()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_ahead(self, pool: ThreadPoolExecutor, waiting: deque[tuple[T, Future[Pixels | ImageError]]]) -> None:
        if self._failure is not None:
            return
        try:
            for number, path in islice(self._paths, self.ahead - len(waiting)):
                waiting.append((path, pool.submit(self._fit, path, f"paths[{number}]")))
        except Exception as error:  # of whoever made the paths: after those before it
            self._failure = error

    def _fit(self, image: Any, name: str) -> Pixels | ImageError:
        try:
            if isinstance(image, (str, os.PathLike, np.ndarray)):
                return self._read(image, name)
            with self._one_opened:  # what Pillow has opened is read only now, and may be here twice
                return self._read(image, name)
        except ImageError as error:
            return error

    def _read(self, image: Any, name: str) -> Pixels:
        return fit(image, self._size, name=name, color=self._color, ignored=self._ignored)

    def _tell(self) -> None:
        if self._ignored.count:
            warnings.warn(self._ignored.warning(), RuntimeWarning, stacklevel=3)


def _encoded(batch: list[tuple[T, Pixels | ImageError]], encode: Callable[[Pixels], Ids]) -> Iterator[Encoded[T]]:
    """Yield the results of one batch, in its order."""
    told = [(path, found if isinstance(found, ImageError) else None) for path, found in batch]
    good = [found for _, found in batch if not isinstance(found, ImageError)]
    pixels = np.stack(good) if good else None
    batch.clear()
    good.clear()  # they are held once while the batch runs, and not at all while its results are taken
    rows = iter(()) if pixels is None else iter(encode(pixels))
    del pixels
    for path, error in told:
        yield Encoded(path, next(rows) if error is None else None, error)
