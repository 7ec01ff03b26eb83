"""A folder of photographs to one array of tokens, by a pool of processes.

pip install "./runtime[cpu,images]"    # in the checkout
python worker_pool.py bundle/ photographs/ tokens.npy 4

Processes pay where Python itself, or the opening of images, is what keeps the cores waiting; one tokenizer with
`encode_iter` does as well where it is the network that computes.

What to watch for:
- Spawn, not fork. A tokenizer cannot be pickled and does not outlive a fork: each worker gets the bundle's path and
  loads once, in the pool's initializer.
- Threads. Each worker gets cores / workers.
- Memory. Engines copy the weights, so that each worker has its own; the files' pages are in memory once. The tokens are
  one file, which every worker maps and writes its own rows of: no ids are pickled back, and 10 million images of 680
  tokens are 27 GB on disk, not in memory.
- Errors. An image that cannot be read leaves its row at -1 and is told; the rest goes on. A worker that is killed
  breaks the pool, and the file is not there then.
- Tokens. precision="auto" gives the same ids in every worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

import coda_runtime

AT_ONCE = 64  # images that a worker is given at a time

tok: coda_runtime.Tokenizer
tokens: npt.NDArray[np.int32]


def start(bundle: str, out: str, threads: int) -> None:
    """Load, once in each worker."""
    global tok, tokens
    tok = coda_runtime.load(bundle, threads=threads)
    tokens = np.lib.format.open_memmap(out, "r+")


def encode(first: int, paths: list[str]) -> list[str]:
    """Write the rows of some images, from row `first` on, and return what was wrong with which."""
    problems = []
    for row, result in enumerate(tok.encode_iter(paths, workers=1), first):
        if result.ids is None:
            problems.append(f"{result.path}: {result.error}")
        else:
            tokens[row] = result.ids
    return problems


def run(bundle: str, paths: list[str], out: str, workers: int) -> Iterator[str]:
    """Write int32 [N, L], row by row the ids of `paths`, and yield what could not be read."""
    with coda_runtime.load(bundle) as loaded:  # in the parent only for this: the number of tokens
        length = loaded.spec.num_tokens
    part = f"{out}.part"
    np.lib.format.open_memmap(part, "w+", np.int32, (len(paths), length))[:] = -1
    threads = max(1, (os.cpu_count() or 1) // workers)
    chunks = iter([(first, paths[first : first + AT_ONCE]) for first in range(0, len(paths), AT_ONCE)])
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), start, (bundle, part, threads)) as pool:
            # A few ahead for each worker, and no more: `pool.map` would take all of them in at once.
            waiting = [pool.submit(encode, *chunk) for chunk in islice(chunks, 2 * workers)]
            while waiting:
                yield from waiting.pop(0).result()
                waiting += [pool.submit(encode, *chunk) for chunk in islice(chunks, 1)]
        Path(part).replace(out)
    finally:
        Path(part).unlink(missing_ok=True)


def main(bundle: str, folder: str, out: str, workers: str) -> None:
    paths = sorted(str(path) for path in Path(folder).iterdir() if path.is_file())
    problems = 0
    for problem in run(bundle, paths, out, int(workers)):
        problems += 1
        print(problem, file=sys.stderr)
    print(f"{len(paths) - problems} of {len(paths)} images: {out}")


if __name__ == "__main__":  # spawned workers import this file, and must not start pools of their own
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except coda_runtime.CodaError as error:
        sys.exit(f"error: {error}")
