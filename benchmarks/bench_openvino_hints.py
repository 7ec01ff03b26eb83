"""What OpenVINO computes in, told by tokens and pixels: ``python -m benchmarks.bench_openvino_hints BUNDLE``.

A bundle's encoder and decoder on ONNX Runtime's OpenVINO plugin, with the precision hint that coda sets and with what
OpenVINO chooses by itself, beside the CPU provider in fp32, on the samples in the bundle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from coda_runtime import load
from coda_runtime.backends.base import Provider
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import SavedReference, mean_psnr

OWN_CHOICE = json.dumps({"CPU": {"EXECUTION_MODE_HINT": "PERFORMANCE"}})


def providers(precision: str) -> Iterator[tuple[str, list[Provider]]]:
    """Yield (what is asked for, the providers to load with)."""
    hint = "none" if precision == "bf16" else "f32, set by coda"
    yield hint, ["OpenVINOExecutionProvider"]
    if precision != "bf16":
        yield "none, OpenVINO's own choice", [("OpenVINOExecutionProvider", {"load_config": OWN_CHOICE})]


def main() -> None:
    """Print, for each precision and hint, equal tokens (free-running) and the decoder's PSNR."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    samples = SavedReference.open(Bundle.open(args.bundle)).samples
    with load(args.bundle, device="cpu", precision="fp32") as cpu:
        ids = cpu.encode(samples.images)
        pixels = cpu.decode(ids)
    results: list[dict[str, Any]] = []
    for precision in Bundle.open(args.bundle).manifest.precisions:
        for hint, chosen in providers(precision):
            with load(args.bundle, precision=precision, providers=chosen) as tok:
                agreement = float(np.mean(tok.encode(samples.images) == ids))
                psnr = mean_psnr(tok.decode(ids), pixels)
                device = tok.artifacts[0].device
            results.append(
                {"precision": precision, "hint": hint, "device": device, "agreement": agreement, "psnr": psnr}
            )
            shown = "identical" if psnr is None else f"{psnr:.1f} dB"
            print(f"{precision} on {device}, hint {hint}: {agreement:.2%} of the tokens, decoder {shown}")
    save(args.json, {"rows": results})


if __name__ == "__main__":
    main()
