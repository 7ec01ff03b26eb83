"""Ids and images of this project on other processors, as one table: ``python -m benchmarks.portability``.

onnxruntime runs under QEMU as processors without AVX-512, without AVX2 and without AVX; PyTorch and NumPy run here,
held to AVX2 and to SSE, with the tests marked `numeric` too. Exit 1 where more differs than near ties and roundings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import save
from benchmarks.portability import comparison, probe, processors
from benchmarks.portability.processors import EMULATED, NATIVE, NATIVE_TORCH, QEMU, Processor

if TYPE_CHECKING:
    from benchmarks.portability.inputs import Inputs

ROOT = Path(__file__).parents[2]
LIMIT = 1800  # seconds a processor may take, many times what one does on a busy machine
NO_QEMU = (
    f"{QEMU} is not installed, which runs onnxruntime as other processors: "
    "apt-get install --no-install-recommends qemu-user (Debian, Ubuntu), or leave that part out with --without-qemu"
)


def main() -> None:
    """Measure every processor, print the table, and say what is broken."""
    args = _arguments()
    if platform.machine() != "x86_64":
        sys.exit(f"this compares instruction sets of x86-64, and this machine is {platform.machine()}: run it on one")
    if not args.without_qemu and shutil.which(QEMU) is None:
        sys.exit(NO_QEMU)
    from benchmarks.portability.inputs import Inputs  # PyTorch takes seconds, and what is missing is told at once

    forced = processors.forced(probe.dispatched(), probe.features())
    emulated = () if args.without_qemu else EMULATED
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Inputs(Path(temporary), args.images, lambda text: print(text, flush=True))
        order = (NATIVE, *emulated, NATIVE_TORCH, *forced)
        print(f"measuring {len(order)} processors, {os.cpu_count()} at a time", flush=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(lambda which: measure(which, inputs.folder), order))
    native, _ = results[0]
    rows = {
        which.name: judged(which, found, told, native, inputs)
        for which, (found, told) in zip(order, results, strict=True)
    }
    if not args.without_tests:
        for which in forced:
            rows[which.name]["tests"] = run_tests(which)
    for row in rows.values():
        row["broken"] = comparison.broken(row)
    save(args.json, {"images": args.images, "environment": _set_here(), "processors": rows})
    print("\n".join(["", *comparison.table(rows), "", *comparison.chosen_table(rows), ""]))
    if _set_here():
        print(f"this machine ran with {' '.join(f'{name}={value}' for name, value in _set_here().items())}")
    problems = [f"{name}: {line}" for name, row in rows.items() for line in row["broken"]]
    sys.exit("\n".join(problems) if problems else 0)


def measure(which: Processor, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays that a processor answers, and what was seen of it."""
    out = folder / which.name.replace(" ", "-")
    module = ["-m", "benchmarks.portability.measure", str(folder), which.library, str(out)]
    _run([*which.command(sys.executable), *module], which.environment())
    with np.load(out.with_suffix(".npz")) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    if which.library == "torch":
        told["seen"] |= _seen_by_torch(which)
    print(f"  {which.name}: {sum(told['seconds'].values()):.0f} CPU seconds", flush=True)
    return found, told


def _seen_by_torch(which: Processor) -> dict[str, str]:
    loud = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    command = [sys.executable, "-m", "benchmarks.portability.probe", "--torch"]
    text = _run(command, which.environment() | loud).stdout
    found: dict[str, str] = json.loads(text.splitlines()[-1])
    return found | processors.verbose_report(text)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def judged(
    which: Processor, found: Mapping[str, Any], told: Mapping[str, Any], native: Mapping[str, Any], inputs: Inputs
) -> dict[str, Any]:
    """Return one row: ids beside the golden ones and this machine's, images beside this machine's."""
    expected = {**inputs.golden, "sample": native["sample"]}
    ids = {
        name: comparison.compare_ids(found[name], expected[name], inputs.latents[name], inputs.quantizers[name])
        for name in expected
    }
    images = comparison.compare_images(found, native) | comparison.compare_chosen(found, native)
    return {"ids": ids, **images, **told, "not_in_effect": processors.not_in_effect(which, told["seen"])}


def run_tests(which: Processor) -> dict[str, Any]:
    """Run the numeric tests under a processor's switches: pytest's exit code and the line that it ends with."""
    print(f"running the numeric tests: {which.name}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(os.cpu_count()), "--dist", "loadfile"]
    command += ["-p", "no:cacheprovider", "-m", "numeric and not gpu and not shapes"]
    environment = which.environment() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(done.stdout, flush=True)
    return {"exit": done.returncode, "summary": comparison.closing_line(done.stdout)}


def _set_here() -> dict[str, str]:
    return {name: os.environ[name] for name in processors.SWITCHES if name in os.environ}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portability", description=__doc__)
    parser.add_argument("--images", type=int, default=2, choices=range(1, 9), metavar="N", help="photographs, 1 to 8")
    parser.add_argument("--without-qemu", action="store_true", help="leave onnxruntime on other processors out")
    parser.add_argument("--without-tests", action="store_true", help="leave the numeric tests out")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
