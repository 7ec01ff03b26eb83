"""The backend openvino beside onnxruntime: ``python -m benchmarks.bench_openvino BUNDLE [--precision P]``.

For each backend and number of threads, in a process of its own: seconds to load the bundle, memory that it takes loaded
and after calls, milliseconds of one caller's encode and decode, and images a second of several callers at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import in_fresh_process, mebibytes, peak_memory, random_inputs, save
from coda_runtime import CodaError, Tokenizer, load
from coda_runtime.machine.memory import resident_bytes
from coda_runtime.machine.processors import usable_count

BACKENDS = ("onnxruntime", "openvino")


def measure(bundle: Path, backend: str, precision: str, threads: int | None, seconds: float) -> dict[str, Any]:
    """Return a row of the table, measured in this process; of a backend that cannot run here the reason."""
    row: dict[str, Any] = {"backend": backend, "precision": precision, "threads": threads}
    before, began = mebibytes(resident_bytes()), time.perf_counter()
    try:
        tokenizer = load(bundle, "cpu", backend, precision, threads=threads)
    except CodaError as error:
        return {**row, "reason": str(error)}
    with tokenizer:
        row |= {"load_s": time.perf_counter() - began, "loaded_mib": mebibytes(resident_bytes()) - before}
        for operation, call in calls(tokenizer).items():
            call()
            row[f"{operation}_ms"] = 1e3 * one_caller(call, seconds)
            row["run_mib"] = mebibytes(resident_bytes()) - before
            row[f"{operation}_per_s"] = {
                str(count): several_callers(call, count, seconds) for count in (1, usable_count(), 2 * usable_count())
            }
        row |= {"callers_mib": mebibytes(resident_bytes()) - before, "peak_mib": peak_memory() - before}
    return row


def calls(tokenizer: Tokenizer) -> dict[str, Callable[[], object]]:
    """Return what is timed, by its name: one image each."""
    inputs = random_inputs(tokenizer.spec, 1)
    return {
        "encode": lambda: tokenizer.encode(inputs["encode"]),
        "decode": lambda: tokenizer.decode(inputs["decode"]),
    }


def one_caller(call: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the fastest of the calls in ``seconds``, five at least: what disturbs one slows it down."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def several_callers(call: Callable[[], object], count: int, seconds: float) -> float:
    """Return the calls a second of ``count`` threads that call again and again."""
    began = time.perf_counter()

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < began + seconds or not done:
            call()
            done += 1
        return done

    with ThreadPoolExecutor(count) as pool:
        total = sum(pool.map(work, range(count)))
    return total / (time.perf_counter() - began)


def shown(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    head = f"{row['backend']:<12}{row['precision']:<6}threads {row['threads'] or 'all':<4}"
    if "reason" in row:
        return f"{head} not run: {row['reason']}"
    memory = f"{row['loaded_mib']:.0f}, {row['run_mib']:.0f}, {row['callers_mib']:.0f} MiB loaded, run, by callers"
    rates = "; ".join(
        f"{operation} {row[f'{operation}_ms']:.1f} ms, "
        + ", ".join(f"{rate:.1f}/s by {count}" for count, rate in row[f"{operation}_per_s"].items())
        for operation in ("encode", "decode")
    )
    return f"{head} load {row['load_s']:.2f} s, {memory}; {rates}"


def main() -> None:
    """Print a line for each backend and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for threads in (None, 1):
        for backend in BACKENDS:
            rows.append(in_fresh_process(measure, args.bundle, backend, args.precision, threads, args.seconds))
            print(shown(rows[-1]), flush=True)
    save(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
