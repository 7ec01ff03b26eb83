"""Count what screening leaves to score again: ``python -m benchmarks.kernel_model.rescored [--images N]``.

The sample tokenizer's quantizer on the latents of its photographs, in NumPy: groups of codes a token, and tokens that
have a class of groups to score whole (docs/folding.md).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu.shapes import images, make_tokenizer
from coda_export.folding import SearchWeights, fold_search
from coda_export.kernels import search_tables
from coda_runtime.backends.ptx.screening import GROUPS, STEP, half_tables
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.codes.search_tables import SearchTables

Array = npt.NDArray[Any]


def count(rows: Array, tables: dict[str, Array]) -> tuple[Array, Array]:
    """Return for rows, float32 [tokens, C]: groups within the bound, and classes with more than one of them."""
    half = rows.astype(np.float16).astype(np.float32)
    scores = half @ tables["halves"].astype(np.float32) + tables["biases"]
    high = scores.reshape(len(rows), -1, STEP // GROUPS, GROUPS).max(2)
    length, rounded, share, bias, _ = tables["bounds"]
    kept, lost = (np.linalg.norm(part, axis=1) for part in (half, rows - half))
    margin = (lost * length + kept * rounded + share * ((kept + lost) * length + bias)) * 1.0625
    within = high >= (high.max((1, 2)) - 2 * margin)[:, None, None]
    return within.sum((1, 2)), (within.sum(1) > 1).sum(1)


class Noting(NumpyQuantizer):
    """Keeps the rows that it searches."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rows: list[Array] = []

    def search(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        self.rows.append(rows)
        return super().search(rows)


def padded(tables: SearchTables, channels: int) -> dict[str, Array]:
    """Return the table in halves, filled up to whole chunks."""
    vocab = len(tables.table)
    codes = -(-vocab // STEP) * STEP
    table, bias = np.zeros((channels, codes), np.float32), np.full(codes, -np.inf, np.float32)
    table[:, :vocab], bias[:vocab] = tables.table[:, :channels].T, tables.table[:, channels]
    return half_tables(table, bias, None, 0)


def main() -> None:
    """Print a row for every scale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()
    tokenizer = make_tokenizer("sample")
    quantizer, spec = tokenizer.quantizer, tokenizer.spec
    with torch.no_grad():
        keys, values = quantizer.search.keys(quantizer.codebook), quantizer.search.values(quantizer.codebook)
        folded = fold_search(SearchWeights(quantizer.search.to_q, quantizer.search.norm_q, keys, values))
        pixels = torch.from_numpy(images(spec.image_size)[: args.images])
        latent = tokenizer.encode_latent(pixels).numpy()
    tables = search_tables(folded)
    noting = Noting(spec, tables, folded.values.numpy())
    noting.ids(latent)
    halves = padded(tables, spec.latent_channels)
    found = [count(rows, halves) for rows in noting.rows]
    print("side  tokens  groups a token  tokens with more than one  with a whole class")
    everything = tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
    for side, (groups, classes) in [*zip(map(str, spec.scales), found, strict=True), ("all", everything)]:
        shares = f"{(groups > 1).mean():>28.2%}{(classes > 0).mean():>20.2%}"
        print(f"{side:>4}{len(groups):>8}{groups.mean():>16.3f}{shares}")


if __name__ == "__main__":
    main()
