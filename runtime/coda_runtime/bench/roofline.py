"""What the processor could do at most, by a large matrix product, and the share of it that an operation reaches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..format.precision import precision_of
from ..tokenizer import LoadedArtifact

_SIDE, _RUNS = 1536, 5


def peak_flops() -> float:
    """Return float32 operations a second of the best of a few large matrix products by NumPy, on its BLAS's threads."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    best = float("inf")
    for _ in range(_RUNS + 1):  # the first one is slower
        start = time.perf_counter()
        np.matmul(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best


def work_of(provenance: Mapping[str, Any], artifacts: Iterable[LoadedArtifact], parts: Sequence[str]) -> float | None:
    """Return operations for one image in `parts`, None if the bundle does not say or they are not float32 on a CPU.

    For a GPU or a lower precision there is no ceiling that could be measured by NumPy.
    """
    flops = provenance.get("flops")
    loaded = {artifact.part: artifact for artifact in artifacts}
    total = 0.0
    for part in parts:
        count = flops.get(part) if isinstance(flops, Mapping) else None
        artifact = loaded[part]
        known = isinstance(count, (int, float)) and not isinstance(count, bool) and count > 0
        if not known or not precision_of(artifact.precision).is_float32 or not artifact.device.endswith("cpu"):
            return None
        total += float(count)  # type: ignore[arg-type] # it is a number here
    return total
