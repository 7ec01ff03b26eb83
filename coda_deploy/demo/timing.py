"""Milliseconds of each part under the runtime and in PyTorch, and of fp32 and int8, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coda_deploy.evaluate.devices import torch_threads
from coda_deploy.reference import TorchReference
from coda_runtime import Tokenizer
from coda_runtime.bench.timing import interleave

BATCHES = (1, 8)
ROUNDS = 7
MIN_ROUNDS = 3
# Seconds for all rounds of one comparison: a slow machine does fewer of them.
BUDGET = 1.5
# Seconds at most, and how long one look takes, for the threads of the last run to fall asleep.
SETTLE, LOOK = 0.3, 0.01


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds over ``rounds`` interleaved rounds; ``batch`` images a run, PyTorch on ``threads``."""

    part: str
    batch: int
    torch_ms: float
    runtime_ms: float
    rounds: int
    threads: int

    @property
    def ratio(self) -> float:
        """How many times faster the runtime is."""
        return self.torch_ms / self.runtime_ms


@dataclass(frozen=True)
class PrecisionTiming:
    """Medians in milliseconds of a whole ``operation`` over ``rounds`` interleaved rounds; ``batch`` images a run."""

    operation: str
    batch: int
    fp32_ms: float
    int8_ms: float
    rounds: int

    @property
    def ratio(self) -> float:
        """How many times faster int8 is."""
        return self.fp32_ms / self.int8_ms


Run = Callable[[], object]


def settle() -> None:
    """Wait until this process is idle.

    The threads of either library spin for tens of milliseconds after a run, on the cores that the other one is about
    to use: it would be timed too slow, many times over where there are two cores.
    """
    until = time.perf_counter() + SETTLE
    while time.perf_counter() < until:
        before = time.process_time()
        time.sleep(LOOK)
        if time.process_time() - before < LOOK / 10:
            return


def compare(
    tokenizer: Tokenizer,
    reference: TorchReference,
    images: NDArray[np.uint8],
    progress: Callable[[str], None] = lambda _: None,
) -> list[Timing]:
    """Time encoder, quantizer, decoder and the round trip at each of BATCHES.

    ``images`` is uint8 [N, H, W, 3], repeated where a batch is larger. Both sides go from numpy to numpy. The runtime
    runs what ``tokenizer`` has loaded, PyTorch the unfolded tokenizer in ``torch.inference_mode``, on one thread
    or on all, whichever is faster.
    """
    timings = []
    for batch in BATCHES:
        pixels = np.resize(images, (batch, *images.shape[1:]))
        latent = tokenizer.run_parts(pixels, "encoder")
        ids = tokenizer.run_parts(latent, "quantizer")
        pairs: dict[str, tuple[Run, Run]] = {
            "encoder": (_run(reference.latent, pixels), _part(tokenizer, "encoder", pixels)),
            "quantizer": (_run(reference.encode, latent), _part(tokenizer, "quantizer", latent)),
            "decoder": (_run(reference.decode, ids), _part(tokenizer, "decoder", ids)),
            "round trip": (_run(_round_trip(reference), pixels), _run(tokenizer.reconstruct, pixels)),
        }
        for part, (in_torch, in_runtime) in pairs.items():
            progress(f"timing the {part}, batch {batch}")
            with torch.inference_mode():
                timings.append(_compare(part, batch, in_torch, in_runtime))
    return timings


def compare_precisions(
    fp32: Tokenizer, int8: Tokenizer, images: NDArray[np.uint8], progress: Callable[[str], None] = lambda _: None
) -> list[PrecisionTiming]:
    """Time whole encodes and decodes of two precisions of a bundle in turn at each of BATCHES.

    ``images`` is uint8 [N, H, W, 3], repeated where a batch is larger; both decode the same ids.
    """
    timings = []
    for batch in BATCHES:
        pixels = np.resize(images, (batch, *images.shape[1:]))
        ids = fp32.encode(pixels)
        pairs: dict[str, tuple[Run, Run]] = {
            "encode": (_run(fp32.encode, pixels), _run(int8.encode, pixels)),
            "decode": (_run(fp32.decode, ids), _run(int8.decode, ids)),
        }
        for operation, runs in pairs.items():
            progress(f"timing fp32 and int8 in turn: {operation}, batch {batch}")
            seconds = interleave(runs, ROUNDS, min_rounds=MIN_ROUNDS, budget_s=BUDGET, before=settle)
            fp32_ms, int8_ms = (1000 * statistics.median(of) for of in seconds)
            timings.append(PrecisionTiming(operation, batch, fp32_ms, int8_ms, len(seconds[0])))
    return timings


def _compare(part: str, batch: int, in_torch: Run, in_runtime: Run) -> Timing:
    # Where other programs use the cores, PyTorch's threads wait for one another, and a run can take 30 times as long
    # as on one thread: that is no speed to compare with.
    counts = sorted({torch.get_num_threads(), 1})
    runs = [*(_on_threads(count, in_torch) for count in counts), in_runtime]
    seconds = interleave(runs, ROUNDS, min_rounds=MIN_ROUNDS, budget_s=BUDGET, before=settle)
    *in_torch_ms, runtime_ms = (1000 * statistics.median(of) for of in seconds)
    torch_ms, threads = min(zip(in_torch_ms, counts, strict=True))
    return Timing(part, batch, torch_ms, runtime_ms, len(seconds[0]), threads)


def _on_threads(count: int, run: Run) -> Run:
    def limited() -> None:
        with torch_threads(count):
            run()

    return limited


def _part(tokenizer: Tokenizer, part: str, given: NDArray[Any]) -> Run:
    return lambda: tokenizer.run_parts(given, part)


def _run(function: Callable[[Any], object], argument: object) -> Run:
    return lambda: function(argument)


def _round_trip(reference: TorchReference) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda pixels: reference.decode(reference.encode(reference.latent(pixels)))
