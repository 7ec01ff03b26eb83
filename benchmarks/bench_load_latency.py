"""Latency of one image under load, by number of threads: with other callers, other processes, and in a container.

``python -m benchmarks.bench_load_latency BUNDLE [--threads auto,1] [--callers 1,2,4] [--quota 1,0.5] [--json FILE]``.
Each number of threads is measured by `coda bench`, scenario concurrent, in processes of its own: on the whole machine,
beside as many busy processes as there are processors (``--beside``), bound to one processor as by taskset
(``--cpus``), and under quotas of a control group (``--quota``), which only root may make. "auto" is what runs where
nobody names a number: whether `coda_runtime.machine.processors.default_threads` chooses well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import save
from coda_runtime.bench.image_set import take_images
from coda_runtime.bench.plan import Plan
from coda_runtime.bench.run import Hooks, run_bench
from coda_runtime.bench.steady import undisturbed
from coda_runtime.format.bundle import Bundle
from coda_runtime.machine.processors import usable_cpus

WORKER = [sys.executable, "-P", str(Path(__file__).with_name("limited_worker.py"))]
BUSY = "while True: pass"
PERIOD_US = 100_000


@contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Let so many processes compute meanwhile."""
    running = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def control_group(quota: float) -> Iterator[Path]:
    """Make a control group, of version 2 or 1, whose processes get so many processors' time. Raises OSError."""
    root = Path("/sys/fs/cgroup")
    version_2 = (root / "cgroup.controllers").exists()
    group = (root if version_2 else root / "cpu") / "coda-bench-load"
    group.mkdir()
    try:
        allowed = str(int(quota * PERIOD_US))
        if version_2:
            (group / "cpu.max").write_text(f"{allowed} {PERIOD_US}", encoding="utf-8")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US), encoding="utf-8")
            (group / "cpu.cfs_quota_us").write_text(allowed, encoding="utf-8")
        yield group
    finally:
        group.rmdir()


def measure(bundle: Bundle, plan: Plan, command: Sequence[str]) -> list[dict[str, Any]]:
    """Return the latencies of each number of threads, operation and callers."""
    results = run_bench(bundle, take_images(bundle), plan, sys.argv, hooks=Hooks(command=list(command)))
    return [
        {
            "threads": cell["threads"],
            "operation": of["operation"],
            "undisturbed": len(undisturbed(of["processes"])),
            "processes": len(of["processes"]),
            **point,
        }
        for cell in results.data["cells"]
        for of in cell["measurements"]
        for point in (of.get("concurrency") or {"points": []})["points"]
    ]


def circumstances(args: argparse.Namespace) -> Iterator[tuple[str, list[str], ExitStack]]:
    """Yield what the workers run under: a name, their command, and what ends it."""
    yield "the whole machine", WORKER, ExitStack()
    if args.beside:
        stack = ExitStack()
        stack.enter_context(busy_processes(args.beside))
        yield f"beside {args.beside} busy processes", WORKER, stack
    if args.cpus:
        yield f"bound to processor {args.cpus}", [*WORKER, "--cpus", args.cpus], ExitStack()
    for quota in args.quota:
        stack = ExitStack()
        try:
            group = stack.enter_context(control_group(quota))
        except OSError as error:
            print(f"\nquota {quota:g}: not measured, no control group can be made here ({error})")
            continue
        yield f"quota {quota:g}", [*WORKER, "--group", str(group)], stack


def numbers(kind: Any) -> Any:
    """Return what parses values that stand between commas."""
    return lambda text: tuple(None if value == "auto" else kind(value) for value in text.split(",") if value)


def main() -> None:
    """Measure one bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=numbers(int), default=(None, 1))
    parser.add_argument("--callers", type=numbers(int), default=(1, 2, 4))
    parser.add_argument("--operation", default="encode")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--beside", type=int, default=len(usable_cpus()))
    parser.add_argument("--cpus", default=str(usable_cpus()[0]))
    parser.add_argument("--quota", type=numbers(float), default=(1.0, 0.5))
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    plan = Plan(
        (args.backend,),
        (args.precision,),
        ("cpu",),
        args.threads,
        tuple(args.operation.split(",")),
        ("concurrent",),
        (1,),
        seconds=args.seconds,
        callers=args.callers,
        repeat_process=args.rounds,
        detailed=False,
    )
    results: dict[str, Any] = {"bundle": str(args.bundle), "seconds": args.seconds, "rounds": args.rounds}
    for name, command, around in circumstances(args):
        with around:
            found = results[name] = measure(Bundle.open(args.bundle), plan, command)
        print(f"\n{name}")
        for row in found:
            threads = "auto" if row["threads"] is None else row["threads"]
            print(
                f"  {row['operation']:8} threads {threads:>4}  callers {row['callers']:2}  "
                f"median {row['p50'] * 1e3:8.1f} ms  p99 {row['p99'] * 1e3:8.1f} ms  {row['throughput']:7.2f} images/s"
            )
    save(args.json, results)


if __name__ == "__main__":
    main()
