"""Encoding and decoding on a CPU: coda's runtime beside what one would wire up by hand, all in one run.

``python -m benchmarks.bench_cpu [--shapes mar_v16384 flux_v65536 sample] [--batch 1] [--repeats 5] [--work DIR]
[--json FILE]``. The published shapes have random weights, on which the time does not depend; the agreement of the low
precisions does, so take the sample's for that. ``--work`` keeps what was exported for the next run.

Every pipeline is compared with the unfolded float32 tokenizer on photographs: its tokens by step agreement, its pixels
of the tokenizer's ids by PSNR. The baselines are the paper's formulas in PyTorch with LoRA unmerged, as the reference
runs them: channels first, and with a row per position, which suits a CPU better.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import cpu_pipelines as peers
from benchmarks.common import Others, Run, interleaved_times, medians, paired_ratio, save, show
from coda_deploy.reference import TorchReference
from coda_runtime.errors import one_line
from coda_runtime.parity import mean_psnr, token_parity

PAUSE = 0.05  # seconds between pipelines, in which threads of the one before stop spinning


@dataclass(frozen=True)
class Target:
    """``pipeline`` is to be ``times`` as fast as each of ``baselines``."""

    shape: str
    operation: str
    pipeline: str
    times: float
    baselines: tuple[str, ...]


_TEXTBOOKS = (peers.CHANNELS_FIRST, peers.ROWS)
TARGETS = (
    Target("flux_v65536", "encode", peers.CODA, 4.0, _TEXTBOOKS),
    Target("mar_v16384", "encode", peers.CODA, 1.7, _TEXTBOOKS),
    Target("flux_v65536", "encode", peers.CODA_BF16, 8.0, _TEXTBOOKS),
    Target("mar_v16384", "encode", peers.CODA_BF16, 3.5, _TEXTBOOKS),
    Target("flux_v65536", "decode", peers.CODA, 1.4, (peers.ROWS,)),
    Target("mar_v16384", "decode", peers.CODA, 1.4, (peers.ROWS,)),
)


def in_batches(run: Callable[[NDArray[Any]], NDArray[Any]], given: NDArray[Any], batch: int) -> NDArray[Any]:
    """Run in batches of the size that a pipeline was made for."""
    return np.concatenate([run(given[start : start + batch]) for start in range(0, len(given), batch)])


class Reference:
    """The unfolded tokenizer's answers on the photographs that pipelines are compared on."""

    def __init__(self, shape: peers.Shape, count: int) -> None:
        self.batch, self.scales = shape.batch, shape.tokenizer.spec.scales
        self.images = np.resize(shape.images, (max(count, shape.batch), *shape.images.shape[1:]))
        self.images = self.images[: len(self.images) // shape.batch * shape.batch]
        self.reference = TorchReference(shape.tokenizer)
        self.latent = self.reference.latent(self.images)
        self.ids = self.reference.encode(self.latent)
        self.decoded = self.reference.decode(self.ids)

    def encoding(self, pipeline: peers.Pipeline) -> dict[str, Any]:
        """Return the shares of equal tokens."""
        found = in_batches(pipeline.encode, self.images, self.batch)
        parity = token_parity(found, self.ids, self.reference.step(self.latent, found), self.scales)
        return {name: parity[name] for name in ("step_agreement", "agreement")}

    def decoding(self, pipeline: peers.Pipeline) -> dict[str, Any]:
        """Return the PSNR to the tokenizer's pixels; None where they are identical."""
        return {"psnr": mean_psnr(in_batches(pipeline.decode, self.ids, self.batch), self.decoded)}


def verdict(target: Target, times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Judge whether a target is met against each of its baselines, by the median of the ratios of each round."""
    against = {}
    for baseline in target.baselines:
        if target.pipeline in times and baseline in times:
            ratio = paired_ratio(times[baseline], times[target.pipeline])
            against[baseline] = {**asdict(ratio), "met": ratio.median >= target.times}
    return {"operation": target.operation, "road": target.pipeline, "target": target.times, "against": against}


def report(target: Target, found: Mapping[str, Any]) -> None:
    """Print one line per baseline."""
    for baseline, ratio in found["against"].items():
        word = "met" if ratio["met"] else "NOT MET"
        print(
            f"  {target.operation}, {target.pipeline}: {ratio['median']:.2f} x ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}) "
            f"against {baseline}; target {target.times} x: {word}"
        )
    if not found["against"]:
        print(f"  {target.operation}, {target.pipeline}: not measured; target {target.times} x")


def open_pipelines(
    shape: peers.Shape, reference: Reference, limit: int, names: list[str], stack: contextlib.ExitStack
) -> tuple[dict[str, peers.Pipeline], dict[str, dict[str, Any]]]:
    """Open the pipelines that work here, after a run of each, with what was found about every one."""
    pipelines: dict[str, peers.Pipeline] = {}
    about: dict[str, dict[str, Any]] = {}
    for name in names:
        begun = time.perf_counter()
        try:
            with peers.limited(limit, name):
                pipeline = stack.enter_context(contextlib.contextmanager(peers.PIPELINES[name])(shape))
                about[name] = {"encode": reference.encoding(pipeline)}
                if name != peers.CHANNELS_FIRST:  # both textbook forms decode alike
                    about[name]["decode"] = reference.decoding(pipeline)
        except Exception as error:  # whatever a peer fails with is a row of the table
            about[name] = {"reason": one_line(error, named=True, line=0)}
            print(f"  {name}: left out, {about[name]['reason']}", flush=True)
            continue
        pipelines[name] = pipeline
        about[name]["ready_s"] = time.perf_counter() - begun
        print(f"  {name}: ready after {about[name]['ready_s']:.0f} s", flush=True)
    return pipelines, about


def measure(shape: peers.Shape, names: list[str], repeats: int, check: int, limit: int) -> dict[str, Any]:
    """Measure both operations of every pipeline, in turn."""
    batch, rows, all_times = shape.batch, {}, {}
    print(f"\n{shape.name}, batch {batch}", flush=True)
    with contextlib.ExitStack() as stack:
        reference = Reference(shape, check)
        pipelines, about = open_pipelines(shape, reference, limit, names, stack)
        given = {"encode": reference.images[:batch], "decode": reference.ids[:batch]}
        others = Others()
        for operation in ("encode", "decode"):
            listed = [name for name in pipelines if operation in about[name]]
            runs: dict[str, Run] = {n: partial(getattr(pipelines[n], operation), given[operation]) for n in listed}
            all_times[operation] = interleaved_times(runs, repeats, pause=PAUSE, warm=True)
            found = medians(all_times[operation])
            show(f"{shape.name}: {operation}, batch {batch}", found, peers.ROWS if peers.ROWS in found else listed[0])
            rows[operation] = {
                name: {"median_s": found[name], "times_s": all_times[operation][name], **about[name][operation]}
                for name in listed
            }
            for name in listed:
                print(f"  {name:<48}{_agreement(rows[operation][name])}")
        busy = others.share()
    print(f"\n{shape.name}: targets; other processes took {busy:.0%} of the machine meanwhile")
    verdicts = []
    for target in TARGETS:
        if target.shape == shape.name:
            verdicts.append(verdict(target, all_times[target.operation]))
            report(target, verdicts[-1])
    reasons = {name: found["reason"] for name, found in about.items() if "reason" in found}
    return {"batch": batch, "repeats": repeats, "others_busy": busy, **rows, "left_out": reasons, "targets": verdicts}


def _agreement(row: Mapping[str, Any]) -> str:
    if "psnr" in row:
        return "identical" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
    return f"step agreement {row['step_agreement']:.2%}, free-running {row['agreement']:.2%}"


def main() -> None:
    """Measure the shapes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["mar_v16384", "flux_v65536", "sample"])
    parser.add_argument(
        "--pipelines", nargs="+", choices=peers.PIPELINES, default=list(peers.PIPELINES), metavar="PIPELINE"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", type=int, default=2, help="photographs to compare on (8 of the sample's)")
    parser.add_argument("--limit", type=int, default=600, help="seconds in which a pipeline must be ready")
    parser.add_argument("--work", type=Path, help="keep exported graphs there")
    parser.add_argument("--prepare", action="store_true", help="only export what --work is to hold")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in args.shapes:
            shape = peers.Shape(name, args.batch, work)
            if args.prepare:
                print(f"{name}: {shape.bundle}", flush=True)
                with contextlib.contextmanager(peers.PIPELINES[peers.NAIVE])(shape):
                    pass
                continue
            check = len(shape.images) if name == "sample" else args.check
            results[name] = measure(shape, args.pipelines, args.repeats, check, args.limit)
            save(args.json, results)  # after each, for a run may be stopped


if __name__ == "__main__":
    main()
