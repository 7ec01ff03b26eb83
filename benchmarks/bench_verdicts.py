"""How often `coda bench compare` and `coda bench ab` are right: about one bundle twice, and about a planted slow-down.

``python -m benchmarks.bench_verdicts BUNDLE [--tries 20] [--ab] [--busy 1] [--json FILE]``. In each try a bundle is
measured and compared with the try before, and measured with a part that takes longer (`benchmarks/slowed_worker.py`)
and compared with the first. ``--ab`` has `coda bench ab` do it. ``--busy N`` has N processes compute meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import save
from coda_runtime.bench.ab import Side, run_ab
from coda_runtime.bench.compare import Comparison, compare
from coda_runtime.bench.image_set import ImageSet, take_images
from coda_runtime.bench.plan import Plan
from coda_runtime.bench.results import Results
from coda_runtime.bench.run import Hooks, run_bench
from coda_runtime.bench.statistics import PAIRS
from coda_runtime.format.bundle import Bundle

OPERATION_OF = {"encoder": "encode", "quantizer": "encode", "decoder": "decode"}
TYPED = ("python", "-m", "benchmarks.bench_verdicts")


class Tries:
    """Measures one bundle, and the same with a slowed part."""

    def __init__(self, folder: Path, part: str, slower: float, seconds: float, processes: int | None) -> None:
        self.bundle = Bundle.open(folder)
        self.images: ImageSet = take_images(self.bundle)
        count = Plan.repeat_process if processes is None else processes
        self.plan = Plan(operations=(OPERATION_OF[part],), batches=(1,), seconds=seconds, repeat_process=count)
        self.pairs = PAIRS if processes is None else processes
        script = Path(__file__).with_name("slowed_worker.py")
        self._last: Results | None = None
        self.slowed = [sys.executable, "-P", str(script), part, str(slower)]

    def compared(self) -> dict[str, Comparison]:
        """Return what compare says of two runs, one after another."""
        before = self._last or self._measured(None)
        self._last = self._measured(None)
        return {"same": compare(before, self._last), "slowed": compare(self._last, self._measured(self.slowed))}

    def _measured(self, command: list[str] | None) -> Results:
        return run_bench(self.bundle, self.images, self.plan, TYPED, hooks=Hooks(command=command))

    def in_turn(self) -> dict[str, Comparison]:
        """Return what ab says."""
        a = Side("A", self.bundle, self.plan)
        others = {"same": Side("B", self.bundle, self.plan), "slowed": Side("B", self.bundle, self.plan, self.slowed)}
        return {name: run_ab(a, side, self.images, TYPED, pairs=self.pairs) for name, side in others.items()}


def facts(comparison: Comparison) -> dict[str, Any]:
    """Return the verdict about the median, with its numbers."""
    metric = comparison.rows[0].metrics[0]
    verdicts = {of.name: of.verdict for of in comparison.rows[0].metrics}
    return {"ratio": metric.ratio, "ci99": metric.ci99, "reason": metric.reason, "verdicts": verdicts}


def compute() -> None:
    """Keep a processor busy."""
    while True:
        pass


@contextmanager
def others(count: int) -> Iterator[None]:
    """Keep `count` processors busy inside the block."""
    processes = [multiprocessing.get_context("spawn").Process(target=compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> None:
    """Try it as often as asked, and count the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--part", choices=sorted(OPERATION_OF), default="decoder")
    parser.add_argument("--slower", type=float, default=0.05, help="by which share the part takes longer")
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--processes", type=int, help="of each run, or pairs; by default those of coda bench")
    parser.add_argument("--ab", action="store_true", help="take turns, as `coda bench ab` does")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tries = Tries(args.bundle, args.part, args.slower, args.seconds, args.processes)
    found: dict[str, list[dict[str, Any]]] = {"same": [], "slowed": []}
    with others(args.busy):
        for number in range(args.tries):
            for name, comparison in (tries.in_turn() if args.ab else tries.compared()).items():
                found[name].append(facts(comparison))
                now = found[name][-1]
                print(f"{number + 1} {name}: {now['ratio']:.3f} {now['ci99']} {now['verdicts']['median']}", flush=True)
    for name, results in found.items():
        print(name, dict(Counter(of["verdicts"]["median"] for of in results)))
    kept = {name: value for name, value in vars(args).items() if name not in ("bundle", "json")}
    save(args.json, {"settings": kept, **found})


if __name__ == "__main__":
    main()
