"""How much of the codebook ids use, and how evenly: counted batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from coda_runtime.format.spec import Spec


def utilization(counts: NDArray[np.int64]) -> float:
    """Return the share of the codes that occur at least once, 0 to 1, from how often each occurs [V]."""
    return int(np.count_nonzero(counts)) / len(counts)


def perplexity(counts: NDArray[np.int64]) -> float:
    """Return how many equally frequent codes would have the same entropy, 1 to V; NaN where nothing was counted.

    exp(-sum_k p_k ln p_k) with p_k = counts_k / sum(counts), from counts [V].
    """
    total = int(counts.sum())
    if not total:
        return float("nan")
    share = counts[counts > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def columns(spec: Spec) -> Iterator[slice]:
    """Yield where each scale's tokens stand in a row of ids, coarse to fine."""
    return (slice(start, stop) for start, stop in pairwise((0, *spec.prefix_lengths)))


class CodeCounts:
    """How often each code occurs at each scale; ``counts`` is int64 [scales, V]."""

    def __init__(self, spec: Spec) -> None:
        self._columns = list(columns(spec))
        self.counts = np.zeros((len(self._columns), spec.vocab_size), np.int64)

    def add(self, ids: NDArray[np.int32]) -> None:
        """Count ids [B, L], each in [0, V)."""
        for row, where in zip(self.counts, self._columns, strict=True):
            row += np.bincount(ids[:, where].ravel(), minlength=len(row))

    @property
    def total(self) -> NDArray[np.int64]:
        """Over all scales, int64 [V]."""
        return np.asarray(self.counts.sum(0))


class Agreement:
    """How many tokens two tokenizers give alike; ``equal`` and ``seen`` are int64 [scales]."""

    def __init__(self, spec: Spec) -> None:
        self._columns = list(columns(spec))
        self.equal = np.zeros(len(self._columns), np.int64)
        self.seen = np.zeros(len(self._columns), np.int64)

    def add(self, one: NDArray[np.int32], other: NDArray[np.int32]) -> None:
        """Compare ids [B, L] of the same images."""
        same = one == other
        self.equal += [int(same[:, where].sum()) for where in self._columns]
        self.seen += [same[:, where].size for where in self._columns]

    @property
    def share(self) -> float:
        """Share of equal tokens over all scales, 0 to 1."""
        return int(self.equal.sum()) / int(self.seen.sum())

    @property
    def per_scale(self) -> list[float]:
        """Share of equal tokens at each scale, 0 to 1."""
        return [int(equal) / int(seen) for equal, seen in zip(self.equal, self.seen, strict=True)]
