"""Numbered items, made in this process or ahead of time in others, and delivered in order."""

from __future__ import annotations

import atexit
import os
import signal
import warnings
from collections.abc import Generator, Iterable
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from coda_deploy.errors import DataError
from coda_runtime.errors import one_line
from coda_runtime.io.counts import count

T = TypeVar("T")


def stream(
    items: Dataset[T | DataError], numbers: Iterable[int], workers: int, *, pinned: bool = False
) -> Generator[T, None, None]:
    """Yield ``items[n]`` for each n of ``numbers``, made by ``workers`` processes, or by this one if that is 0.

    An item that is a ``DataError`` is raised: it is returned rather than raised in the worker, because PyTorch would
    wrap it in a traceback. Closing the iterator stops the workers. They ignore SIGINT and SIGTERM, which reach a whole
    process group: the main process decides when to stop.

    ``pinned`` items are given by their ``pin_memory()``, called in this process, by a thread where there are workers.
    """
    if workers == 0:
        for number in numbers:
            item = _checked(items[number])
            yield item.pin_memory() if pinned else item  # type: ignore[attr-defined] # as PyTorch's loader does
        return
    with warnings.catch_warnings():
        # More workers than processors is what a configuration may say: they wait for files and for the network too.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader: DataLoader[T | DataError] = DataLoader(
            items,
            sampler=numbers,
            batch_size=None,
            num_workers=workers,
            collate_fn=_same,
            worker_init_fn=_set_up,
            # With its own generator the loader draws nothing from the global one, whose state is the training's.
            generator=torch.Generator(),
            pin_memory=pinned,
        )
        iterator = iter(loader)
    # Not by dropping the last reference: the traceback of an error would keep the workers. And not only here: a
    # generator that is still open at exit would leave workers that multiprocessing waits for, and that ignore SIGTERM.
    stop = iterator._shutdown_workers  # type: ignore[attr-defined]
    atexit.register(stop)
    forget = atexit.unregister  # the generator may be closed when modules are already being emptied
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                # PyTorch's word for a dead worker; what an item raised stays as it is.
                if not str(error).startswith("DataLoader worker (pid"):
                    raise
                raise DataError(
                    f"of {count(workers, 'process', 'processes')} that read images one died "
                    f"({one_line(error, line=0)}); if memory ran out, use fewer workers, and in a container give it a "
                    "larger /dev/shm"
                ) from error
            yield _checked(item)
    finally:
        stop()
        forget(stop)


def _checked(item: T | DataError) -> T:
    if isinstance(item, DataError):
        raise item
    return item


def _same(item: T) -> T:
    return item


def _set_up(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A worker is stopped while a thread of its queue may still copy an item into shared memory. A forked process ends
    # at once; a spawned one would take its interpreter down first, in which that thread aborts the process.
    atexit.register(os._exit, 0)
