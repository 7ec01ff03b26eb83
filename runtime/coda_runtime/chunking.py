"""A batch of any size, through engines that take a limited one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeviceMemoryError, InputError


def run_in_chunks(
    count: int, max_batch: int, min_batch: int, run: Callable[[slice], npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], int]:
    """Run `count` items in chunks of `min_batch` to `max_batch`, and join the results along the first axis.

    A chunk for which the device has no memory is halved, as are those after it. A last chunk that would be too small
    reaches back over items that have been run already.

    Args:
        count: items in all, from 1.
        max_batch: items a run takes at most, from `min_batch`.
        min_batch: items a run takes at least, from 1.
        run: takes a slice of the items and returns one row for each.

    Returns:
        The rows of all items, and the `max_batch` that had memory enough.

    Raises:
        InputError: `count` is under `min_batch`.
        DeviceMemoryError: there is no memory for `min_batch` items.
    """
    if count < min_batch:
        raise InputError(
            f"the engines take batches from {min_batch} to {max_batch} images, and this call has {count}; pass more, "
            f"or build engines that take fewer: coda build --batch {count},{max_batch},{max_batch}"
        )
    out: npt.NDArray[Any] | None = None
    start = 0
    while start < count:
        size = min(max_batch, count - start)
        where = slice(max(0, start + size - max(size, min_batch)), start + size)
        try:
            rows = run(where)
        except DeviceMemoryError as error:
            if where.stop - where.start <= min_batch:
                raise DeviceMemoryError(
                    f"{error}; even a batch of {where.stop - where.start} does not fit: free memory on the device, "
                    "take a lower precision or another device"
                ) from error
            max_batch = max(min_batch, size // 2)
            continue
        if len(rows) == count:
            return rows, max_batch
        if out is None:
            out = np.empty((count, *rows.shape[1:]), rows.dtype)
        out[where] = rows
        start += size
    assert out is not None  # noqa: S101 - count is at least 1
    return out, max_batch
