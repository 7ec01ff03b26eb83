"""One family of contenders on one shape: every operation at every batch size, a row each, written as it comes."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bundle_runs import Run, bundle_run
from benchmarks.gpu.case import Case
from benchmarks.gpu.machine import clocks
from benchmarks.gpu.plan import Contender
from benchmarks.gpu.roofline import roofline_ms
from benchmarks.gpu.stage import OVER
from benchmarks.gpu.timing import measure
from benchmarks.gpu.torch_runs import quantizer_run, tokenizer_run
from benchmarks.gpu.torch_tensorrt_runs import torch_tensorrt_run
from coda_runtime.errors import one_line

Key = tuple[str, str, str, str, str, int]
KEY = ("shape", "contender", "precision", "operation", "clock", "batch")


class Rows:
    """Rows in a file of JSON lines: of one key the last one counts, but never a reason over a measurement."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, key: Key, found: dict[str, Any]) -> None:
        """Append a row, on a line of its own after one that was cut."""
        with self._path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read() == b"\n" else b"\n")
            file.write(f"{json.dumps({**dict(zip(KEY, key, strict=True)), **found})}\n".encode())

    def read(self) -> dict[Key, dict[str, Any]]:
        """All rows by key."""
        out: dict[Key, dict[str, Any]] = {}
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
                key: Key = tuple(row[name] for name in KEY)
            except (ValueError, KeyError, TypeError):  # cut by the end of a process
                continue
            if "median_ms" in row or "median_ms" not in out.get(key, {}):
                out[key] = row
        return out


@dataclasses.dataclass(frozen=True)
class Limits:
    """``deadline`` is on time.time's clock."""

    batches: tuple[int, ...]
    seconds: float
    deadline: float
    ceilings: dict[str, float]


def measure_family(make: Callable[[], Case], contenders: Sequence[Contender], rows: Rows, limits: Limits) -> None:
    """Measure what has no row yet. What fails gets a row with the reason."""
    case, done = make(), rows.read()
    free = _free(case)
    for contender in contenders:
        case.drop()
        for operation, clock in contender.operations:
            keys = {b: (case.shape, contender.name, contender.precision, operation, clock, b) for b in limits.batches}
            open_keys = {b: key for b, key in keys.items() if "median_ms" not in done.get(key, {})}
            if not open_keys:
                continue
            try:
                _measure(case, contender, operation, clock, open_keys, rows, limits, free)
            except Exception as error:  # every library has its own; the reason is the result
                there, reason = rows.read(), one_line(error, named=True)
                for key in open_keys.values():
                    if "median_ms" not in there.get(key, {}):
                        rows.add(key, {"reason": reason})
                print(f"    {contender.name} {contender.precision} {operation}/{clock}: not run: {reason}", flush=True)
            gc.collect()
            if case.device.type == "cuda":
                with contextlib.suppress(RuntimeError):  # a context that a kernel has broken
                    torch.cuda.empty_cache()
    if case.device.type == "cuda":
        print(f"    clocks: {clocks()}", flush=True)


def _measure(
    case: Case,
    contender: Contender,
    operation: str,
    clock: str,
    keys: dict[int, Key],
    rows: Rows,
    limits: Limits,
    free: int,
) -> None:
    if time.time() > limits.deadline:
        raise TimeoutError(OVER)
    with _opened(case, contender, operation, clock) as opened:
        for batch, key in keys.items():
            if time.time() > limits.deadline:
                rows.add(key, {"reason": OVER})
                continue
            try:
                rows.add(key, _row(case, contender, operation, clock, batch, opened, limits, free))
            except Exception as error:
                rows.add(key, {"reason": one_line(error, named=True)})
                gc.collect()
                if case.device.type == "cuda":
                    torch.cuda.empty_cache()
    _tell(contender, operation, clock, [rows.read()[key] for key in keys.values()])


def _tell(contender: Contender, operation: str, clock: str, found: Sequence[dict[str, Any]]) -> None:
    """One line of progress."""
    times = [f"{row['median_ms']:.4g} ms" if "median_ms" in row else "not run" for row in found]
    told = ", ".join(f"batch {row['batch']} {time}" for row, time in zip(found, times, strict=True))
    print(f"    {contender.name} {contender.precision} {operation}/{clock}: {told}", flush=True)


@contextlib.contextmanager
def _opened(case: Case, contender: Contender, operation: str, clock: str) -> Iterator[Run]:
    if contender.family in ("torch", "quantizers", "compile"):
        opened = quantizer_run if contender.name.startswith(("textbook", "folded")) else tokenizer_run
        with opened(case, contender, operation, clock) as run:
            yield Run(run)
    elif contender.family == "torch-tensorrt":
        with torch_tensorrt_run(case, contender, operation, clock) as found:
            yield found
    else:
        with bundle_run(case, contender, operation, clock) as found:
            yield found


def _row(
    case: Case,
    contender: Contender,
    operation: str,
    clock: str,
    batch: int,
    opened: Run,
    limits: Limits,
    free: int,
) -> dict[str, Any]:
    inputs = case.inputs(operation, clock, batch)
    if case.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timing = measure(opened.run, inputs, clock, limits.seconds)
    memory = {}
    if case.device.type == "cuda":
        memory = {
            "memory_mib": round((free - _free(case)) / 2**20),
            "torch_peak_mib": round(torch.cuda.max_memory_allocated() / 2**20),
        }
    out = opened.run(inputs[0])
    out = out.cpu().numpy() if isinstance(out, torch.Tensor) else out
    bound = roofline_ms(case, operation, contender.precision, batch, limits.ceilings)
    chunks = 1 if opened.max_batch is None else -(-batch // opened.max_batch)
    return {
        **dataclasses.asdict(timing),
        "images_per_second": batch / timing.median_ms * 1e3,
        "parity": case.parity(operation, out, batch),
        "floor_ms": bound,
        "floor_share": None if bound is None else bound / timing.median_ms,
        **memory,
        **({"pieces": chunks} if chunks > 1 else {}),
        **({"about": opened.about} if opened.about else {}),
        **({"nodes": dict(opened.nodes())} if opened.nodes() else {}),
    }


def _free(case: Case) -> int:
    """Free memory of the GPU, whoever uses it; 0 on the CPU."""
    if case.device.type != "cuda":
        return 0
    torch.zeros(1, device=case.device)
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0])
