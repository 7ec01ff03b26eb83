"""Encoding and decoding on a CPU: coda's runtime beside what one would wire up by hand, all in one run.

``python -m benchmarks.bench_cpu --work DIR --json FILE [--shapes mar_v16384 flux_v65536] [--rounds 6] [--only NAME
...]`` measures whole operations at batch 1. In each round each pipeline has a process of its own, so that
its memory goes with it and a machine that slows down slows all of them. FILE is written after every process, and what
it has already is not measured again: a run that was cut goes on, and more ``--rounds`` add to it. ``--table`` prints
what FILE has as Markdown and measures nothing; ``--prepare`` exports what DIR is to hold and measures nothing.

The published shapes have random weights, on which the time does not depend; the loss does. The decoder's, in dB beside
the unfolded float32 tokenizer, can be compared between pipelines; tokens of random weights are near ties everywhere,
and how many agree is noise: take the sample's for that (``--shapes sample``).

Times count only of processes that nothing else disturbed, at one speed of the machine (coda_runtime/bench/steady.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cpu_pipelines as peers
from benchmarks.common import in_fresh_process, machine, paired_ratio, random_inputs, save
from coda_runtime.bench.steady import OTHERS, same_speed
from coda_runtime.errors import one_line
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import mean_psnr

ROOT = Path(__file__).parents[1]
OPERATIONS = ("encode", "decode")
SHAPES = ("mar_v16384", "flux_v65536")
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """``pipeline`` is to be ``times`` as fast as each of ``baselines``."""

    shape: str
    operation: str
    pipeline: str
    times: float
    baselines: tuple[str, ...]


TARGETS = (
    *(
        Target(shape, operation, peers.CODA_INT8, times, (peers.CODA,))
        for shape in SHAPES
        for operation, times in (("encode", 2.2), ("decode", 2.4))
    ),
    Target("mar_v16384", "encode", peers.CODA_INT8, 4.0, (peers.CHANNELS_FIRST,)),
    Target("flux_v65536", "encode", peers.CODA_INT8, 7.5, (peers.CHANNELS_FIRST,)),
)
"""On AMD; on Intel with AMX int8 is to encode 9 times as fast as the textbook."""


def steady(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that nothing disturbed, at that speed of the machine at which every pipeline ran most often.

    Of speeds at which they ran equally often, the highest. A pipeline may be left with none. Of a process's two
    products the faster one tells the speed: threads of the pipeline itself that still wait busily slow one down.
    """
    quiet = [run for run in runs if run["others"] <= OTHERS]
    names = {run["pipeline"] for run in runs}
    groups = [
        [run for run in quiet if min(run["reference_s"]) >= low and same_speed([low, min(run["reference_s"])])]
        for low in sorted(min(run["reference_s"]) for run in quiet)
    ]

    def rank(group: list[Run]) -> tuple[int, int]:
        counts = [sum(run["pipeline"] == name for run in group) for name in names]
        return min(counts), len(group)

    return max(groups, key=rank, default=[])  # of equals the first, which is the fastest


def seconds(runs: Iterable[Run], operation: str) -> dict[str, dict[int, float]]:
    """Return {pipeline: {round: the median of its calls}}."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run["pipeline"], {})[run["round"]] = statistics.median(run[f"{operation}_s"])
    return found


def verdict(target: Target, times: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """Judge a target against each of its baselines, by the median of the ratios of the rounds that both have."""
    against = {}
    for baseline in target.baselines:
        ours, theirs = times.get(target.pipeline, {}), times.get(baseline, {})
        rounds = sorted(ours.keys() & theirs.keys())
        if rounds:
            ratio = paired_ratio([theirs[n] for n in rounds], [ours[n] for n in rounds])
            against[baseline] = {**asdict(ratio), "rounds": len(rounds), "met": ratio.median >= target.times}
    return {"operation": target.operation, "road": target.pipeline, "target": target.times, "against": against}


def report(target: Target, found: Mapping[str, Any]) -> None:
    """Print one line per baseline."""
    for baseline, ratio in found["against"].items():
        word = "met" if ratio["met"] else "NOT MET"
        print(
            f"  {target.shape} {target.operation}, {target.pipeline}: {ratio['median']:.2f} x ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}, {ratio['rounds']} rounds) against {baseline}; target {target.times} x: {word}"
        )
    if not found["against"]:
        print(f"  {target.shape} {target.operation}, {target.pipeline}: not measured; target {target.times} x")


def measure(shape: str, name: str, work: Path, options: Sequence[str], limit: int) -> dict[str, Any]:
    """Run a pipeline in a process of its own: its figures, or the reason why there are none."""
    command = [sys.executable, "-m", "benchmarks.cpu_worker", shape, name, str(work), *options]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"reason": f"took longer than {limit} s"}
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.strip()]
        return {"reason": one_line(told[-1]) if told else f"ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def answers(work: Path, shape: str, name: str) -> Path:
    """Name the file that holds what a pipeline answered at first."""
    return work / shape / f"answers-{list(peers.PIPELINES).index(name)}.npz"


def loss(work: Path, shape: str, name: str, batch: int) -> dict[str, Any]:
    """Return the share of equal ids, and the PSNR of the same ids' pixels (None: identical), beside the tokenizer."""
    with np.load(answers(work, shape, name)) as found, np.load(work / shape / f"given-{batch}.npz") as given:
        return {
            "agreement": float((found["encode"] == given["ids"]).mean()),
            "psnr": mean_psnr(found["decode"], given["decoded"]),
        }


def run_shape(shape: str, names: Sequence[str], args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure what a shape lacks, and save after each process."""
    entry = results["shapes"].setdefault(shape, {"batch": args.batch, "runs": [], "left_out": {}, "loss": {}})
    done = {(run["round"], run["pipeline"]) for run in entry["runs"]}
    for number, name in itertools.product(range(args.rounds), names):
        if (number, name) in done or name in entry["left_out"]:
            continue
        keep = [] if name in entry["loss"] else ["--keep", str(answers(args.work, shape, name))]
        options = ["--batch", str(args.batch), "--calls", str(args.calls), *keep]
        found = measure(shape, name, args.work, options, args.limit)
        if "reason" in found:
            entry["left_out"][name] = found["reason"]
            print(f"  {shape}, {name}: left out, {found['reason']}", flush=True)
        else:
            if keep:
                entry["loss"][name] = loss(args.work, shape, name, args.batch)
            entry["runs"].append({"pipeline": name, "round": number, **found})
            told = ", ".join(f"{o} {1e3 * statistics.median(found[f'{o}_s']):.0f} ms" for o in OPERATIONS)
            reference = "/".join(f"{1e3 * s:.1f}" for s in found["reference_s"])
            print(
                f"  {shape}, round {number}, {name}: {told}; ready after {found['ready_s']:.0f} s, product {reference} "
                f"ms, others {found['others']:.0%}",
                flush=True,
            )
        save(args.json, results, quiet=True)


def judge(results: dict[str, Any]) -> list[Target]:
    """Print and record every target's verdict; return those that were missed."""
    missed = []
    for shape, entry in results["shapes"].items():
        kept = steady(entry["runs"])
        print(f"\n{shape}: {len(kept)} of {len(entry['runs'])} processes were undisturbed at one speed of the machine")
        entry["targets"] = []
        for target in (target for target in TARGETS if target.shape == shape):
            found = verdict(target, seconds(kept, target.operation))
            entry["targets"].append(found)
            report(target, found)
            if not all(ratio["met"] for ratio in found["against"].values()):
                missed.append(target)
    return missed


def table(results: Mapping[str, Any]) -> list[str]:
    """Return the results as a Markdown table: medians in ms, the processes behind them, and the decoder's loss."""
    shapes = list(results["shapes"])
    columns = [f"{shape} {operation}" for shape in shapes for operation in OPERATIONS]
    head = ["pipeline", *columns, "undisturbed processes", "decoder, dB from fp32"]
    times = {}
    for shape in shapes:
        kept = steady(results["shapes"][shape]["runs"])
        for operation in OPERATIONS:
            times[shape, operation] = seconds(kept, operation)
    lines = [head, ["---"] * len(head)]
    for name in peers.PIPELINES:
        found = [times[shape, operation].get(name, {}) for shape in shapes for operation in OPERATIONS]
        if not any(found):
            continue
        cells = [f"{1e3 * statistics.median(rounds.values()):.0f}" if rounds else "" for rounds in found]
        counts = [str(len(rounds)) for rounds in found[:: len(OPERATIONS)]]
        lost = [results["shapes"][shape]["loss"].get(name) for shape in shapes]
        lines.append([name, *cells, ", ".join(counts), ", ".join(_decibels(one) for one in lost)])
    left = [
        f"Left out: {shape}, {name}: {reason}."
        for shape in shapes
        for name, reason in results["shapes"][shape]["left_out"].items()
    ]
    return [f"| {' | '.join(line)} |" for line in lines] + ([""] if left else []) + left


def _decibels(lost: Mapping[str, Any] | None) -> str:
    if lost is None:
        return "-"
    return "identical" if lost["psnr"] is None else f"{lost['psnr']:.1f}"


def profiles(missed: Sequence[Target], work: Path) -> dict[str, Any]:
    """Return where the time goes in the parts of the targets that were missed, in int8 and in fp32."""
    from benchmarks.bench_operators import PART_OF, operators, show_operators

    found: dict[str, Any] = {}
    for shape, operation in dict.fromkeys((target.shape, target.operation) for target in missed):
        part = PART_OF[operation]
        bundle = Bundle.open(work / shape / "bundle")
        for precision in ("int8", "fp32"):
            artifacts = bundle.manifest.find(part.name, format="onnx", precision=precision)
            if artifacts:
                feed = {part.input.name: random_inputs(bundle.spec, 1)[operation]}
                taken = in_fresh_process(operators, bundle.path(artifacts[0]), feed, 3)
                found[f"{shape} {part.name} {precision}"] = taken
                show_operators(f"{shape} {part.name} {precision}", taken)
    return found


def main() -> None:
    """Measure the shapes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--only", nargs="+", choices=peers.PIPELINES, default=list(peers.DEFAULT), metavar="PIPELINE")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--calls", type=int, default=3, help="calls of each operation in a process")
    parser.add_argument("--limit", type=int, default=1200, help="seconds that a process may take")
    parser.add_argument("--work", type=Path, required=True, help="exported graphs are kept there for the next run")
    parser.add_argument("--prepare", action="store_true", help="only export what --work is to hold")
    parser.add_argument("--table", action="store_true", help="only print what --json holds")
    parser.add_argument("--json", type=Path, help="the results, to go on with and to write")
    args = parser.parse_args()
    if args.prepare:
        for name in args.shapes:
            peers.prepare(peers.Shape(name, args.batch, args.work))
        return
    results: dict[str, Any] = {"machine": machine(), "shapes": {}}
    if args.json is not None and args.json.exists():
        results = json.loads(args.json.read_text(encoding="utf-8"))
        if not args.table and results["machine"] != machine():
            sys.exit(f"{args.json} was measured on {results['machine']}, and this is {machine()}: name another --json")
    if not args.table:
        print(results["machine"], flush=True)
        for name in args.shapes:
            run_shape(name, args.only, args, results)
    missed = judge(results)
    if missed and not args.table:
        results["profiles"] = profiles(missed, args.work)
    print("\n".join(["", *table(results)]))
    if not args.table:
        save(args.json, results)


if __name__ == "__main__":
    main()
