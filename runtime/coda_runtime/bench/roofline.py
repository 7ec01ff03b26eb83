"""What the processor could do at most, in arithmetic and from memory, and what an operation has to do at least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..format.bundle import Bundle
from ..format.parts import PARTS
from ..format.precision import precision_of
from ..tokenizer import LoadedArtifact
from .timing import measure

_SIDE, _RUNS = 1536, 5
_TALL, _WIDE = 4096, 8192  # 128 MB: more than most caches hold


def peak_flops() -> float:
    """Return float32 operations a second of the best of a few large matrix products by NumPy, on its BLAS's threads."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_SIDE, _SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    return 2 * _SIDE**3 / _best_of_a_few(lambda: np.matmul(a, b, out=out))


def peak_bytes() -> float:
    """Return bytes a second that are read from memory, at best, by products of a large matrix and a vector by NumPy."""
    matrix, vector = np.ones((_TALL, _WIDE), np.float32), np.ones(_WIDE, np.float32)
    out = np.empty(_TALL, np.float32)
    return matrix.nbytes / _best_of_a_few(lambda: np.matmul(matrix, vector, out=out))


def min_bytes(bundle: Bundle, artifacts: Iterable[LoadedArtifact], parts: Sequence[str], images: int, runs: int) -> int:
    """Return what `parts` move for so many images in so many runs at least: each file once a run, what goes in and out.

    Values between the layers of a part are not in it: whether those leave the cache, nobody tells.
    """
    sizes = {artifact.file: artifact.bytes for artifact in bundle.manifest.artifacts}
    files = sum(sizes.get(artifact.file, 0) for artifact in artifacts if artifact.part in parts)
    tensors = [tensor for part in parts for tensor in (PARTS[part].input, PARTS[part].output)]
    each = sum(int(np.prod(tensor.row(bundle.spec))) * tensor.dtype.itemsize for tensor in tensors)
    return files * runs + each * images


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


def _best_of_a_few(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest call; the first one is slower."""
    return min(measure(lambda _: run(), 0, repeats=_RUNS + 1))
