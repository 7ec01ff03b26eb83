"""The least time an operation can take on this GPU, by ceilings that were measured on it in the same call."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from benchmarks.bench_kernel import Gpu, search_bound
from benchmarks.gpu.case import Case, parts_of
from benchmarks.gpu.timing import by_events, by_wall
from benchmarks.gpu.torch_runs import exact_float32
from coda_runtime.format.parts import PARTS, QUANTIZER
from coda_runtime.format.precision import PRECISIONS


def ceilings(device: str) -> dict[str, float]:
    """Operations a second of a large matrix product in bf16 and in float32, bytes a second of a large copy.

    Bytes count as read and as written. On random data: zeros can run faster.
    """
    exact_float32()
    on_gpu = device == "cuda"
    side, length = (8192, 2**30) if on_gpu else (256, 2**22)
    out = {}
    sample = by_events if on_gpu else by_wall
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        pairs = [torch.randn(2, side, side, device=device).to(dtype) for _ in range(2)]
        best = _best(sample, lambda pair: pair[0] @ pair[1], pairs)
        out[f"{name}_flops"] = 2 * side**3 / best
    source = torch.randint(0, 255, (length,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    out["bytes_per_second"] = 2 * length / _best(sample, target.copy_, [source])
    return out


def _best(sample: Any, run: Any, inputs: list[Any]) -> float:
    sample(run, inputs, 3)
    begun, times = time.perf_counter(), list[float]()
    while len(times) < 20 and time.perf_counter() - begun < 3:
        times += sample(run, inputs, 4)
    return min(times) / 1e3


def roofline_ms(case: Case, operation: str, precision: str, batch: int, found: dict[str, float]) -> float | None:
    """The larger of operations over rate and bytes over bandwidth, in milliseconds; None for the unknown.

    Bytes are input, output and parameters once, nothing in between: more than any layer-by-layer execution can reach.
    """
    total = 0.0
    for part in map(PARTS.__getitem__, parts_of(operation)):
        if part is QUANTIZER:
            gpu = Gpu("measured", "", found["fp32_flops"], found["bytes_per_second"])
            total += search_bound(case.spec, batch, gpu).seconds
            continue
        work, width = case.work[part.name], PRECISIONS[precision].itemsize
        ends = sum(math.prod(end.shape(case.spec, batch)) * end.dtype.itemsize for end in (part.input, part.output))
        moved = ends + width * work["parameters"]
        total += max(batch * work["flops"] / found[f"{precision}_flops"], moved / found["bytes_per_second"])
    return total * 1e3
