"""Tokens for torch.utils.data: made of images on the way, or read from a file that holds them.

pip install "./runtime[cpu,images]" torch    # in the checkout
python torch_datasets.py bundle/ photographs/ 2

What to watch for:
- Spawn, not fork: DataLoader(multiprocessing_context="spawn"). The dataset is what is sent to a worker, so that it
  holds the bundle's path, and loads when it is first iterated over.
- Threads. Each worker computes with cores / workers.
- Images are divided among the workers by their number; a batch is of one worker's. Their order is the same every time.
- What cannot be read is left out, with a warning; a job that must know of every one keeps `result.error`.
- Epochs. Encoding is the slow part: whoever needs the tokens twice writes them once (worker_pool.py, `coda tokenize`)
  and reads them by `StoredTokens`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import coda_runtime


class EncodedImages(IterableDataset[tuple[int, torch.Tensor]]):
    """Yields (number of the image, its ids, int32 [L]) of those that can be read."""

    def __init__(self, bundle: str, paths: Sequence[str]) -> None:
        self.bundle, self.paths = bundle, list(paths)

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        numbers = range(first, len(self.paths), step)
        cores = os.cpu_count() or 1
        with coda_runtime.load(self.bundle, threads=max(1, cores // step)) as tok:
            for number, result in zip(numbers, tok.encode_iter(self.paths[first::step], workers=1), strict=True):
                if result.ids is None:
                    warnings.warn(str(result.error), RuntimeWarning, stacklevel=2)
                else:
                    yield number, torch.from_numpy(result.ids)


class StoredTokens(Dataset[torch.Tensor]):
    """The rows of an .npy file of int32 [N, L], mapped and not read: workers share its pages."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._rows: np.ndarray | None = None

    def rows(self) -> np.ndarray:
        if self._rows is None:
            self._rows = np.load(self.path, mmap_mode="r")
        return self._rows

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_rows": None}  # a worker maps the file itself

    def __len__(self) -> int:
        return len(self.rows())

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self.rows()[index]))


def main(bundle: str, folder: str, workers: str) -> None:
    paths = sorted(str(path) for path in Path(folder).iterdir() if path.is_file())
    count = int(workers)
    loader = DataLoader(
        EncodedImages(bundle, paths),
        batch_size=8,
        num_workers=count,
        multiprocessing_context="spawn" if count else None,
    )
    for numbers, ids in loader:
        for number, row in zip(numbers.tolist(), ids, strict=True):
            print(paths[number], row.tolist())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
