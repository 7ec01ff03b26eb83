"""How far ids agree in lower precisions, on other processors, threads and engines: the table of docs/portability.md.

``python -m benchmarks.portability.precisions [--bundle DIR] [--images 8] [--without-qemu] [--json FILE]``: the sample
in each precision, by onnxruntime and OpenVINO, on this machine with one to three threads, held to older instructions
where an engine has a switch, and under QEMU as processors without AVX-512. Each row is compared with the ids that the
same precision's first row made. Nothing here depends on how busy the machine is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import save
from benchmarks.portability.processors import QEMU, SWITCHES
from coda_runtime.codes.metrics import percent
from coda_runtime.errors import one_line
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import SavedReference, token_parity

ROOT = Path(__file__).parents[2]
LIMIT = 1800  # seconds that a process may take
PRECISIONS = ("fp32", "bf16", "int8")
FIRST = {"fp32": "onnxruntime", "bf16": "openvino", "int8": "onnxruntime"}
"""The engine whose ids on this machine, by one thread, the precision's other rows are compared with."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Where:
    """A way to run a precision: ``cpu`` is QEMU's name of a processor, ``switches`` hold libraries to less."""

    name: str
    threads: int = 1
    cpu: str | None = None
    switches: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Return what runs Python there."""
        return [sys.executable] if self.cpu is None else [QEMU, "-cpu", self.cpu, sys.executable]

    def environment(self) -> dict[str, str]:
        """Return this process's, with these switches alone."""
        return {name: value for name, value in os.environ.items() if name not in SWITCHES} | dict(self.switches)


HERE = Where("this machine, 1 thread")
PLACES = (HERE, Where("this machine, 2 threads", threads=2), Where("this machine, 3 threads", threads=3))
# onnxruntime has no such switch; OpenVINO's convolutions are oneDNN's.
HELD = (Where("held to AVX2 (oneDNN)", switches={"ONEDNN_MAX_CPU_ISA": "AVX2"}),)
EMULATED = (Where("QEMU max", cpu="max"), Where("QEMU Haswell", cpu="Haswell"))


def rows(qemu: bool) -> list[tuple[str, str, Where]]:
    """Return precision, engine and place of every row, the one that others are compared with first of its precision."""
    out = []
    for precision in PRECISIONS:
        engines = sorted(("onnxruntime", "openvino"), key=lambda engine: engine != FIRST[precision])
        for engine in engines:
            if precision == "bf16" and engine == "onnxruntime":
                continue  # its CPU provider has none
            held = HELD if engine == "openvino" else ()
            out += [(precision, engine, where) for where in (*PLACES, *held, *(EMULATED if qemu else ()))]
    return out


def measure(bundle: Path, images: Path, precision: str, engine: str, where: Where, out: Path) -> dict[str, Array] | str:
    """Return latents and ids that a row makes, or why there are none."""
    call = ["-m", "benchmarks.portability.precisions", "--run", str(bundle), str(images), str(out)]
    command = [*where.command(), *call, "--as", precision, engine, str(where.threads)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=where.environment(), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {LIMIT} s"
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.strip()]
        return one_line(told[-1]) if told else f"ended with {done.returncode}"
    with np.load(out) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    print(f"  {precision}, {engine}, {where.name}: done", flush=True)
    return found


def answer(bundle: Path, images: Path, out: Path, precision: str, engine: str, threads: int) -> None:
    """Write what this process makes of the images: latents float32 [N, C, h, w] and ids int32 [N, L]."""
    import coda_runtime

    with coda_runtime.load(bundle, device="cpu", backend=engine, precision=precision, threads=threads) as tokenizer:
        latent = np.concatenate([tokenizer.run_parts(image[None], "encoder") for image in np.load(images)])
        ids = np.concatenate([tokenizer.run_parts(one[None], "quantizer") for one in latent])
    np.savez(out, allow_pickle=False, latent=latent, ids=ids)


def compared(found: Mapping[str, Array], first: Mapping[str, Array], reference: SavedReference) -> dict[str, Any]:
    """Return how many ids are those of the first row, which share is right step by step, and how far latents are."""
    step = reference.step(first["latent"], found["ids"])
    parity = token_parity(found["ids"], first["ids"], step, reference.quantizer.spec.scales)
    apart = float(np.linalg.norm(found["latent"] - first["latent"]) / np.linalg.norm(first["latent"]))
    images = (found["ids"] == first["ids"]).all(1)
    return {
        "equal": parity["agreement"],
        "step_agreement": parity["step_agreement"],
        "images_equal": int(images.sum()),
        "images": len(images),
        "latent_error": apart,
    }


COLUMNS = ("precision", "engine", "where", "ids equal", "images equal", "step agreement", "latents differ by")


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table of the rows."""
    lines: list[Sequence[str]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in results:
        name = (row["precision"], row["engine"], row["where"])
        if "reason" in row:
            lines.append((*name, f"not run: {row['reason']}", "", "", ""))
            continue
        apart = f"{row['latent_error']:.1e}" if row["latent_error"] else "nothing"
        images = f"{row['images_equal']} of {row['images']}"
        lines.append((*name, percent(row["equal"], 2), images, percent(row["step_agreement"], 2), apart))
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Measure every row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle of the sample in fp32, bf16 and int8; else one is made")
    parser.add_argument("--images", type=int, default=8, choices=range(1, 9), metavar="N", help="photographs, 1 to 8")
    parser.add_argument("--without-qemu", action="store_true", help="leave other processors out")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--run", nargs=3, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--as", nargs=3, dest="row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        folder, images, out = args.run
        answer(folder, images, out, args.row[0], args.row[1], int(args.row[2]))
        return
    if not args.without_qemu and shutil.which(QEMU) is None:
        sys.exit(f"{QEMU} is not installed: apt-get install --no-install-recommends qemu-user, or --without-qemu")
    with tempfile.TemporaryDirectory() as temporary:
        bundle = args.bundle or _export(Path(temporary) / "bundle")
        reference = SavedReference.open(Bundle.open(bundle))
        images = Path(temporary) / "images.npy"
        np.save(images, reference.samples.images[: args.images])
        wanted = rows(not args.without_qemu)

        def run(number: int) -> dict[str, Array] | str:
            return measure(bundle.absolute(), images, *wanted[number], Path(temporary) / f"{number}.npz")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(run, range(len(wanted))))
        results, first = [], dict[str, Mapping[str, Array]]()
        for (precision, engine, where), answers in zip(wanted, found, strict=True):
            row: dict[str, Any] = {"precision": precision, "engine": engine, "where": where.name}
            if isinstance(answers, str):
                row["reason"] = answers
            else:
                row |= compared(answers, first.setdefault(precision, answers), reference)
            results.append(row)
        print("\n".join(["", *table(results)]))
        save(args.json, {"images": args.images, "rows": results})


def _export(out: Path) -> Path:
    from coda_deploy.export import export_tokenizer
    from coda_deploy.sample import tokenizer_path

    print("exporting the sample tokenizer", flush=True)
    export_tokenizer(tokenizer_path(), out, precisions=PRECISIONS)
    return out


if __name__ == "__main__":
    main()
