"""The sample in the integer precision beside float32: what a picture loses, and how much faster it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import coda_runtime
from coda_deploy.demo.timing import BUDGET, MIN_ROUNDS, ROUNDS, settle
from coda_runtime import Tokenizer
from coda_runtime.bench.timing import interleave
from coda_runtime.format.precision import PRECISIONS

LOWERED = next(name for name, known in PRECISIONS.items() if known.is_integer)
STEPS = 2
"""What `lowered_beside` reports through its progress."""


@dataclass(frozen=True)
class Speed:
    """Medians in milliseconds over ``rounds`` interleaved rounds, one image a run."""

    operation: str
    exact_ms: float
    lowered_ms: float
    rounds: int

    @property
    def ratio(self) -> float:
        """How many times faster the lower precision is."""
        return self.exact_ms / self.lowered_ms


@dataclass(frozen=True)
class Lowered:
    """``precision``, what it gives back, uint8 [N, H, W, 3], and how fast it encodes and decodes."""

    precision: str
    reconstructions: NDArray[np.uint8]
    speeds: Sequence[Speed]


def lowered_beside(
    exact: Tokenizer, bundle: Path, images: NDArray[np.uint8], progress: Callable[[str], None] = lambda _: None
) -> Lowered:
    """Run ``images``, uint8 [N, H, W, 3], through ``bundle`` in LOWERED, and time one of them beside ``exact``."""
    with coda_runtime.load(bundle, device="cpu", precision=LOWERED) as lowered:
        progress(f"photographs to tokens and back in {LOWERED}")
        reconstructions = lowered.reconstruct(images)
        progress(f"timing {LOWERED} beside float32")
        one = images[:1]
        ids = exact.encode(one)
        speeds = [
            _speed("encode", lambda: exact.encode(one), lambda: lowered.encode(one)),
            _speed("decode", lambda: exact.decode(ids), lambda: lowered.decode(ids)),
        ]
    return Lowered(LOWERED, reconstructions, speeds)


def _speed(operation: str, exact: Callable[[], object], lowered: Callable[[], object]) -> Speed:
    seconds = interleave([exact, lowered], ROUNDS, min_rounds=MIN_ROUNDS, budget_s=BUDGET, before=settle)
    exact_ms, lowered_ms = (1000 * statistics.median(of) for of in seconds)
    return Speed(operation, exact_ms, lowered_ms, len(seconds[0]))
