"""Timing side by side: candidates in turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from coda_runtime.backends.onnxruntime.backend import SPINNING
from coda_runtime.bench.statistics import median_ci
from coda_runtime.bench.timing import interleave
from coda_runtime.format.parts import IDS, IMAGE
from coda_runtime.format.spec import Spec
from coda_runtime.io.atomic_files import staged_file
from coda_runtime.machine.memory import peak_bytes
from coda_runtime.machine.processors import describe_cpu

Run = Callable[[], object]


def interleaved_times(
    candidates: Mapping[str, Run], repeats: int, *, pause: float = 0.0, warm: bool = False
) -> dict[str, list[float]]:
    """Time each candidate, in seconds, in each of ``repeats`` rounds of all, after one more unless all are ``warm``.

    ``pause`` seconds pass before each run: threads of the library before it may still be spinning.
    """
    wait = partial(time.sleep, pause) if pause else None
    return dict(zip(candidates, interleave([*candidates.values()], repeats, before=wait, warm=warm), strict=True))


def interleaved(candidates: Mapping[str, Run], repeats: int, *, pause: float = 0.0) -> dict[str, float]:
    """Return the median seconds of each candidate: see `interleaved_times`."""
    return medians(interleaved_times(candidates, repeats, pause=pause))


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each candidate."""
    return {name: statistics.median(found) for name, found in times.items()}


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios taken round by round, and its 95 % confidence interval."""

    median: float
    low: float
    high: float


def paired_ratio(times: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return how many times as long as ``baseline`` something took, from runs of the same rounds.

    What slows a whole round falls out of its ratio. The interval is between order statistics, so it assumes no
    distribution; under 6 rounds there is none that holds 95 %, and it is the range.
    """
    ratios = [a / b for a, b in zip(times, baseline, strict=True)]
    return Ratio(statistics.median(ratios), *median_ci(ratios))


def peak_memory() -> float:
    """Return this process's peak resident memory in MiB."""
    return mebibytes(peak_bytes())


def mebibytes(found: int | None) -> float:
    """Return bytes as MiB. Raises OSError for None, what a system gives that does not tell them."""
    if found is None:
        raise OSError("this system does not tell a process's memory")
    return found / 2**20


class Others:
    """How much of the machine other processes take, since this was made."""

    def __init__(self) -> None:
        self._before = self._read()

    def share(self) -> float:
        """Return 0 to 1 of all cores, without this process and its children that have ended."""
        (busy, total, own), (busy_0, total_0, own_0) = self._read(), self._before
        return max(0.0, (busy - busy_0 - (own - own_0)) / max(total - total_0, 1))

    def _read(self) -> tuple[float, float, float]:
        ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
        own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks), own


T = TypeVar("T")


def in_fresh_process(function: Callable[..., T], *arguments: object, timeout: float = 600) -> T:
    """Return what ``function(*arguments)`` returns in a process of its own: its peak memory can be told there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout)


def random_inputs(spec: Spec, batch: int) -> dict[str, NDArray[Any]]:
    """Draw images for "encode", uint8 [B, H, W, 3], and ids for "decode", int32 [B, L]: times do not depend on them."""
    random = np.random.default_rng(0)
    return {
        "encode": random.integers(0, 256, IMAGE.shape(spec, batch), np.uint8),
        "decode": random.integers(0, spec.vocab_size, IDS.shape(spec, batch), np.int32),
    }


def session_options() -> onnxruntime.SessionOptions:
    """Return the options as coda_runtime sets them."""
    options = onnxruntime.SessionOptions()
    for entry, value in SPINNING.items():
        options.add_session_config_entry(entry, value)
    return options


def machine() -> dict[str, Any]:
    """Return the CPU, cores and library versions."""
    model = describe_cpu()["model"] or platform.processor()
    versions = {name: version(name) for name in ("torch", "onnxruntime", "numpy", "onnx")}
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def show(title: str, medians: Mapping[str, float], baseline: str) -> None:
    """Print a table: milliseconds, and how many times faster than the baseline."""
    print(f"\n{title}")
    for name, seconds in medians.items():
        print(f"  {name:<48}{seconds * 1e3:10.2f} ms {medians[baseline] / seconds:8.1f} x")


def save(path: Path | None, results: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Write results and the machine as JSON, where a path is given; ``quiet`` does not say so."""
    if path is not None:
        with staged_file(path) as staged:
            staged.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n", encoding="utf-8")
        if not quiet:
            print(f"\nwritten to {path}")
