"""A batch of any size, through engines that take a limited one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeviceMemoryError, InputError


def in_pieces(
    count: int, most: int, least: int, run: Callable[[slice], npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], int]:
    """Run `count` items in pieces of `least` to `most`, and join the results along the first axis.

    A piece for which the device has no memory is halved, as are those after it. A last piece that would be too small
    reaches back over items that have been run already.

    Args:
        count: items in all, from 1.
        most: items a run takes at most, from `least`.
        least: items a run takes at least, from 1.
        run: takes a slice of the items and returns one row for each.

    Returns:
        The rows of all items, and the `most` that had memory enough.

    Raises:
        InputError: `count` is under `least`.
        DeviceMemoryError: there is no memory for `least` items.
    """
    if count < least:
        raise InputError(
            f"the engines take batches from {least} to {most} images, and this call has {count}; pass more, or build "
            f"engines that take fewer: coda build --batch {count},{most},{most}"
        )
    out: npt.NDArray[Any] | None = None
    start = 0
    while start < count:
        size = min(most, count - start)
        where = slice(max(0, start + size - max(size, least)), start + size)
        try:
            rows = run(where)
        except DeviceMemoryError as error:
            if where.stop - where.start <= least:
                raise DeviceMemoryError(
                    f"{error}; even a batch of {where.stop - where.start} does not fit: free memory on the device, "
                    "take a lower precision or another device"
                ) from error
            most = max(least, size // 2)
            continue
        if len(rows) == count:
            return rows, most
        if out is None:
            out = np.empty((count, *rows.shape[1:]), rows.dtype)
        out[where] = rows
        start += size
    assert out is not None  # noqa: S101 - count is at least 1
    return out, most
