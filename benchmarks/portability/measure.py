"""Run the inputs on the processor of this process: ``python -m benchmarks.portability.measure INPUTS ENGINE OUT``.

With onnxruntime it needs what a production image has: under emulation every import costs seconds. Leaves OUT.npz and
OUT.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.portability.comparison import REPRODUCIBLE
from benchmarks.portability.probe import seen
from coda_runtime import Tokenizer
from coda_runtime.images import Batches
from coda_runtime.machine.processors import has_avx2

Array = npt.NDArray[Any]
THREADS = 1  # processors run beside each other, one a core


def with_onnxruntime(folder: Path, task: dict[str, Any]) -> tuple[dict[str, Array], dict[str, float]]:
    """Run the bundle's encode and decode as an application calls them, and the golden quantizers' graphs."""
    import onnxruntime

    import coda_runtime
    from benchmarks.common import session_options

    timed, options = Stopwatch(), session_options()
    options.intra_op_num_threads = THREADS
    out: dict[str, Array] = {}
    for variant in task["golden"]:
        graph = folder / variant / "quantizer.onnx"
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        latent = np.load(folder / variant / "latent.npy")
        out[variant] = timed(variant, partial(session.run, ["ids"], {"latent": latent}))[0]
    with coda_runtime.load(folder / "bundle", device="cpu", backend="onnxruntime", threads=THREADS) as tokenizer:
        pixels = Batches(task["images"], tokenizer.spec.image_size).take(slice(0, len(task["images"])))
        out |= round_trip(pixels, np.load(folder / "ids.npy"), tokenizer.encode, tokenizer.decode, timed)
        out["chosen"] = timed("chosen", partial(tokenizer.encode, np.load(folder / "chosen.npy")))
    if has_avx2():
        for bundle, images in (("bundle", "chosen"), ("attention", "small")):
            with coda_runtime.load(folder / bundle, reproducible=True) as tokenizer:
                batch = np.load(folder / f"{images}.npy")
                out |= timed(f"reproducible {images}", partial(every_part, tokenizer, batch, images))
    return out, timed.seconds


def every_part(tokenizer: Tokenizer, images: Array, name: str) -> dict[str, Array]:
    """Return latents, ids and, of the first image, pixels, as REPRODUCIBLE, the name and the part."""
    latents = tokenizer.run_parts(images, "encoder")
    ids = tokenizer.run_parts(latents, "quantizer")
    found = {"latents": latents, "ids": ids, "pixels": tokenizer.decode(ids[:1])}
    return {f"{REPRODUCIBLE}_{name}_{part}": array for part, array in found.items()}


def with_torch(folder: Path, task: dict[str, Any]) -> tuple[dict[str, Array], dict[str, float]]:
    """Run the tokenizers themselves, unfolded."""
    import torch

    from benchmarks.portability.inputs import golden_tokenizer
    from coda_deploy import CodaTokenizer
    from coda_deploy.reference import TorchReference

    torch.set_num_threads(THREADS)
    timed, out = Stopwatch(), {}
    for variant in task["golden"]:
        reference, latent = TorchReference(golden_tokenizer(folder, variant)), np.load(folder / variant / "latent.npy")
        out[variant] = timed(variant, partial(reference.encode, latent))
    tokenizer = CodaTokenizer.from_pretrained(task["tokenizer"])
    reference = TorchReference(tokenizer)
    pixels = Batches(task["images"], tokenizer.spec.image_size).take(slice(0, len(task["images"])))
    given = np.load(folder / "ids.npy")

    def encode(images: Array) -> Array:
        return reference.encode(reference.latent(images))

    out |= round_trip(pixels, given, encode, reference.decode, timed)
    out["chosen"] = timed("chosen", lambda: encode(np.load(folder / "chosen.npy")))
    return out, timed.seconds


class Stopwatch:
    """Calls, and the CPU seconds of each by name: what else the machine does would show in wall time alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, run: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = run()
        self.seconds[name] = round(time.process_time() - start, 2)
        return found


def round_trip(
    pixels: Array, given: Array, encode: Callable[[Array], Array], decode: Callable[[Array], Array], timed: Stopwatch
) -> dict[str, Array]:
    """Return the photographs' ids, the same ``given`` ids decoded everywhere, and the photographs there and back."""
    ids = timed("encode", lambda: encode(pixels))
    decoded = timed("decode", lambda: decode(given))
    rebuilt = decoded if np.array_equal(ids, given) else decode(ids)
    return {"pixels": pixels, "sample": ids, "decoded": decoded, "rebuilt": rebuilt}


def main(arguments: Sequence[str]) -> None:
    """Measure, and write beside OUT: the arrays, and what was seen of the processor."""
    folder, library, out = Path(arguments[0]), arguments[1], Path(arguments[2])
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    arrays, seconds = {"onnxruntime": with_onnxruntime, "torch": with_torch}[library](folder, task)
    np.savez(out.with_suffix(".npz"), allow_pickle=False, **arrays)
    out.with_suffix(".json").write_text(json.dumps({"seen": seen(), "seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
