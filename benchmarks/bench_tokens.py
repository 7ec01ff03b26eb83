"""Tokens a second of each way to read a folder of tokens, beside a plain loop over np.memmap.

``python -m benchmarks.bench_tokens [--images 100000] [--batch 256] [--rounds 5] [--json FILE]``. Ids are made up, of
the sizes of MAR's tokenizer; every way gives batches int64 [B,L] of all images once, in random order. The ways take
turns in one process, and what is compared is its processor time, so that other work on the machine counts for little.
`datasets` is left out, and said so, where it is not installed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from benchmarks import token_folder
from benchmarks.common import paired_ratio, save
from coda_deploy.tokens import TokenDataset, TokenStream
from coda_runtime import Spec
from coda_runtime.bulk import convert

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SPEC = Spec("mar_v16384", 256, 16, 16, 16384, SCALES, sum(side * side for side in SCALES))
Ways = dict[str, Callable[[], Iterator[torch.Tensor]]]


def ways(folder: Path, mapped: Path, batch: int) -> Ways:
    """Return what is compared, by name: each gives all batches once."""
    images = len(TokenDataset(folder))

    def memmap() -> Iterator[torch.Tensor]:
        array = np.load(mapped / "tokens.npy", mmap_mode="r")
        order = np.random.default_rng(0).permutation(images)
        for start in range(0, images, batch):
            yield torch.from_numpy(array[order[start : start + batch]].astype(np.int64))

    def memmap_by_row() -> Iterator[torch.Tensor]:
        array = np.load(mapped / "tokens.npy", mmap_mode="r")
        order = np.random.default_rng(0).permutation(images)
        for start in range(0, images, batch):
            rows = [torch.from_numpy(array[row].astype(np.int64)) for row in order[start : start + batch]]
            yield torch.stack(rows)

    def dataset() -> Iterator[torch.Tensor]:
        for found in DataLoader(TokenDataset(mapped), batch, shuffle=True):
            yield found["ids"]

    def dataset_by_batch() -> Iterator[torch.Tensor]:
        data = TokenDataset(mapped)
        for found in DataLoader(data, sampler=BatchSampler(RandomSampler(data), batch, False), batch_size=None):
            yield found["ids"]

    def stream(where: Path) -> Callable[[], Iterator[torch.Tensor]]:
        def run() -> Iterator[torch.Tensor]:
            for found in DataLoader(TokenStream(where, batch_size=batch), batch_size=None):
                yield found["ids"]

        return run

    out: Ways = {
        "np.memmap, by batch": memmap,
        "np.memmap, by row": memmap_by_row,
        "TokenStream, Parquet": stream(folder),
        "TokenStream, .npy": stream(mapped),
        "TokenDataset, .npy, by item": dataset,
        "TokenDataset, .npy, by batch": dataset_by_batch,
    }
    if find_spec("datasets") is None:
        print("`datasets` is not installed, and left out")
        return out
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, folder.glob("*.parquet")))
    table: Any = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(mapped / "cache"))
    table = table.select_columns(["ids"]).with_format("torch")

    def hugging_face() -> Iterator[torch.Tensor]:
        for rows in BatchSampler(RandomSampler(range(images)), batch, drop_last=False):
            yield table[rows]["ids"]

    return {**out, "datasets, by batch": hugging_face}


def main() -> None:
    """Print the tokens a second of each way, and its share of np.memmap's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, mapped = Path(name) / "tokens", Path(name) / "mapped"
        token_folder.write(folder, SPEC, args.images)
        convert(folder, mapped, "npy")
        compared = ways(folder, mapped, args.batch)
        rates: dict[str, list[float]] = {name: [] for name in compared}
        for _ in range(args.rounds):
            for way, batches in compared.items():
                start = time.process_time()
                tokens = sum(found.numel() for found in batches())
                rates[way].append(tokens / (time.process_time() - start))
                if tokens != args.images * SPEC.num_tokens:
                    raise AssertionError(f"{way} gave {tokens} tokens")
    results = {}
    plain = rates["np.memmap, by batch"]
    for way, found in rates.items():
        share = paired_ratio(found, plain)
        results[way] = {"tokens_per_second": statistics.median(found), "share_of_memmap": share.median}
        print(f"{way:28} {statistics.median(found) / 1e6:8.1f} M tokens/s, {share.median:7.1%} of np.memmap by batch")
    save(args.json, {"images": args.images, "batch": args.batch, "tokens_per_image": SPEC.num_tokens, "ways": results})


if __name__ == "__main__":
    main()
