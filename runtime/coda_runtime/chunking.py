"""A batch of any size, through engines that take a limited one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeviceMemoryError
from .format.profiles import BatchSizes


def run_in_chunks(
    count: int, max_batch: int, sizes: BatchSizes, run: Callable[[slice], npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], int]:
    """Run `count` items in chunks of `sizes`, up to `max_batch`, and join the results along the first axis.

    Each chunk is the largest there can be. One for which the device has no memory is halved, as are those after it. A
    last chunk that would be too small reaches back over items that have been run already; where there are none, over
    the end, and what comes of that is dropped.

    Args:
        count: items in all, from 1.
        max_batch: items a run is to take at most; fewer than the smallest of `sizes` count as that.
        sizes: items that a run can take.
        run: takes a slice of the items, of any of `sizes`, and returns one row for each; `fill` makes up for those
            past the end.

    Returns:
        The rows of all items, and the `max_batch` that had memory enough.

    Raises:
        DeviceMemoryError: there is no memory for the smallest of `sizes`.
    """
    out: npt.NDArray[Any] | None = None
    start = 0
    while start < count:
        size = sizes.at_most(min(max_batch, count - start)) or sizes.min
        stop = min(start + size, count)
        first = max(0, stop - size)
        try:
            rows = run(slice(first, first + size))
        except DeviceMemoryError as error:
            if size == sizes.min:
                raise DeviceMemoryError(
                    f"{error}; even a batch of {size} does not fit: free memory on the device, take a lower precision "
                    "or another device"
                ) from error
            max_batch = sizes.at_most(size // 2) or sizes.min
            continue
        if first + size > stop:
            rows = rows[: stop - first]
        if len(rows) == count:
            return rows, max_batch
        if out is None:
            out = np.empty((count, *rows.shape[1:]), rows.dtype)
        out[first:stop] = rows
        start = stop
    assert out is not None  # noqa: S101 - count is at least 1
    return out, max_batch


def fill(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return `count` rows: `rows`, of which there is one at least, and the last one again for each that is lacking."""
    lacking = count - len(rows)
    return rows if lacking <= 0 else np.concatenate([rows, np.repeat(rows[-1:], lacking, 0)])
