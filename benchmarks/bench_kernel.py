"""The quantizer's GPU kernels beside what the hardware allows: ``python -m benchmarks.bench_kernel [--json FILE]``.

The lower bound of the search is the larger of two times: its float32 multiplications and additions on the plain cores
(tensor cores would round the products to TF32), and the bytes that have to be read and written once. Without a GPU the
bounds are printed and nothing is measured.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coda_export.kernels import DEFAULT_TARGET, compile_quantizer
from coda_runtime.backends.cuda import gpu_name, open_device
from coda_runtime.backends.ptx import SearchTables, device_tables
from coda_runtime.backends.ptx.backend import CudaLauncher
from coda_runtime.backends.ptx.session import PtxSession
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.format.parts import LATENT
from coda_runtime.format.spec import Spec
from coda_runtime.machine.devices import count_cuda_devices
from coda_runtime.requirements import needed, pip_install

SPECS = {
    "mar": Spec("mar_v16384", 256, 16, 16, 16384, (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 680),
    "flux": Spec("flux_v65536", 256, 8, 16, 65536, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), 2240),
}
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Gpu:
    """A GPU's published peaks: ``flops`` float32 without tensor cores, ``bandwidth`` bytes a second.

    ``word`` is what the driver's name of the GPU has in it.
    """

    name: str
    word: str
    flops: float
    bandwidth: float


GPUS = (
    Gpu("H200 SXM", "H200", 66.9e12, 4.8e12),
    Gpu("H100 SXM", "H100", 66.9e12, 3.35e12),
    Gpu("A100 SXM 80GB", "A100", 19.5e12, 2.039e12),
    Gpu("L4", "L4", 30.3e12, 0.3e12),
    Gpu("GeForce RTX 4090", "4090", 82.6e12, 1.008e12),
)


@dataclass(frozen=True)
class TimeBound:
    """The least seconds a batch can take: all of it is the larger of the two, since they overlap."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The bound."""
        return max(self.compute, self.memory)


def search_bound(spec: Spec, batch: int, gpu: Gpu) -> TimeBound:
    """Compute the roofline of the search over all scales.

    A token and a code cost C multiplications and C additions. The bias starts the sum, and comparing with the best so
    far, which comes on top, is left out. The table and the bias are read once, for they stay in the L2 cache, the
    tokens are read and the ids written.
    """
    tokens, codes, channels = batch * spec.num_tokens, spec.vocab_size, spec.latent_channels
    moved = 4 * codes * (channels + 1) + 4 * tokens * (channels + 1)
    return TimeBound(2 * tokens * codes * channels / gpu.flops, moved / gpu.bandwidth)


def print_bounds() -> dict[str, Any]:
    """Print the bounds for every GPU, tokenizer and batch size."""
    out: dict[str, Any] = {}
    print(f"{'bound of the search, microseconds':<34}" + "".join(f"{'B=' + str(b):>10}" for b in BATCHES))
    for key, spec in SPECS.items():
        for gpu in GPUS:
            bounds = [search_bound(spec, batch, gpu) for batch in BATCHES]
            print(f"  {key:<6}{gpu.name:<26}" + "".join(f"{bound.seconds * 1e6:>10.1f}" for bound in bounds))
            out[f"{key}/{gpu.name}"] = {
                str(batch): asdict(bound) for batch, bound in zip(BATCHES, bounds, strict=True)
            }  # fmt: skip
    return out


def missing() -> str | None:
    """Return why nothing can be measured here, None where it can."""
    if not count_cuda_devices():
        return "no GPU"
    for module, extra in (("triton", "kernels"), ("cuda.core", "cuda")):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: {pip_install(*needed(extra))}"
    return None


def known_gpu(name: str) -> Gpu | None:
    """Return the entry of GPUS that the driver calls ``name``; None for others, such as an H100 on PCIe."""
    words = name.replace("-", " ").split()
    return next((gpu for gpu in GPUS if gpu.word in words and not {"PCIe", "PCIE", "NVL", "Laptop"} & set(words)), None)


def time_graph(session: PtxSession, batch: int, repeats: int) -> list[float]:
    """Time, in seconds, each launch of a batch's recorded graph, by CUDA events: neither copies nor Python's time."""
    options: Any = importlib.import_module("cuda.core").EventOptions
    timed, stream, graph = options(timing_enabled=True), session._stream, session._graphs[batch]
    raw: Any = stream
    seconds = []
    with session._layer.active():
        for _ in range(repeats + 10):
            start = raw.raw.record(options=timed)
            graph.launch(stream)
            stop = raw.raw.record(options=timed)
            stop.sync()
            seconds.append((stop - start) / 1e3)
    return seconds[10:]


def measure(key: str, spec: Spec, repeats: int) -> dict[str, Any]:
    """Measure median and 99th percentile seconds of a graph launch, by CUDA events, and its share of the bound."""
    rng = np.random.default_rng(0)
    tables = SearchTables(rng.standard_normal((spec.vocab_size, spec.latent_channels + 1), np.float32))
    values = 0.1 * rng.standard_normal((spec.vocab_size, spec.latent_channels), np.float32)
    ptx, kernels = compile_quantizer(spec, tables)[DEFAULT_TARGET]
    layer, name = open_device(0), gpu_name(0)
    with layer.active():
        launcher = CudaLauncher(kernels.modules(ptx), 0)
    session = PtxSession(kernels, spec, device_tables(kernels, spec, tables, values), layer, launcher)
    gpu = known_gpu(name)
    out: dict[str, Any] = {"gpu": name}
    for batch in BATCHES:
        latent = rng.standard_normal(LATENT.shape(spec, batch), np.float32)
        ids = session.run(latent)
        agreement = float((NumpyQuantizer(spec, tables, values).step(latent, ids) == ids).mean())
        session.run(latent)
        seconds = time_graph(session, batch, repeats)
        median, p99 = statistics.median(seconds), float(np.percentile(seconds, 99))
        bound = None if gpu is None else search_bound(spec, batch, gpu).seconds
        gap = "" if bound is None else f", {median / bound:.1f} times the bound of its search"
        print(f"  {key} B={batch}: {median * 1e6:.1f} us (p99 {p99 * 1e6:.1f}){gap}, step agreement {agreement:.4%}")
        out[str(batch)] = {"median_s": median, "p99_s": p99, "floor_s": bound, "step_agreement": agreement}
    session.close()
    return out


def main() -> None:
    """Print the bounds, and measure where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {"floors": print_bounds()}
    reason = missing()
    if reason is not None:
        print(f"not measured: {reason}")
        results["not_measured"] = reason
    else:
        results["measured"] = {key: measure(key, spec, args.repeats) for key, spec in SPECS.items()}
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
