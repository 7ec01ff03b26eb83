"""Findings of a tokenizer of 5 tokens on one picture of 16 x 16 noise, made up in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from coda_deploy.demo.codes import usage
from coda_deploy.demo.results import DemoResults, Int8, NoInt8
from coda_deploy.demo.timing import PrecisionTiming, Timing
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.precision import FP32, INT8
from coda_runtime.format.spec import Spec

SPEC = Spec("tiny", 16, 8, 4, 32, (1, 2), 5)
TOKENS = {
    "step_agreement": 0.99999,
    "step_agreement_per_scale": [1.0, 0.99999],
    "agreement": 0.9,
    "agreement_per_scale": [1.0, 0.8],
}
PIXELS = {"psnr": None, "psnr_to_input": 21.0, "reference_psnr_to_input": 21.0}


def artifact(part: str, parity: dict[str, Any], precision: str = FP32) -> Artifact:
    file, size = f"{part}.{precision}.onnx", 4_000_000 if precision == FP32 else 1_000_000
    return Artifact(part, "onnx", precision, file, "0" * 64, size, parity={"onnxruntime:cpu": parity})


def manifest(spec: Spec, *artifacts: Artifact) -> Manifest:
    return Manifest(spec=spec, provenance={}, default_precision="fp32", artifacts=artifacts)


def results(
    *, parity: dict[str, dict[str, Any]], name: str = "cat", same: bool = False, reason: str | None = None
) -> DemoResults:
    """``reason`` is why there is no int8."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8)
    ids = rng.integers(0, 32, (1, 5), dtype=np.int32)
    scales = [ids[:, :1].reshape(1, 1, 1), ids[:, 1:].reshape(1, 2, 2)]
    return DemoResults(
        names=[name],
        originals=pictures[0],
        reconstructions=pictures[0] if same else pictures[1],
        continuous=pictures[2],
        prefixes=[pictures[3], pictures[0] if same else pictures[1]],
        ids=ids,
        scales=scales,
        latent=rng.normal(size=(1, 4, 2, 2)).astype(np.float32),
        codebook=rng.normal(size=(32, 4)).astype(np.float32),
        usage=usage(scales, 32),
        timings=[Timing("encoder", 1, 20.0, 10.0, 3, 1)],
        int8=Int8(pictures[1], [PrecisionTiming("encode", 1, 12.0, 5.0, 3)]) if reason is None else NoInt8(reason),
        manifest=manifest(
            SPEC,
            *(artifact(part, numbers) for part, numbers in parity.items()),
            *(() if reason is not None else (artifact(part, numbers, INT8) for part, numbers in IN_INT8.items())),
        ),
        machine={"threads": "<one> & only"},
    )


# Every number of its own, so that none can stand for another.
IN_INT8 = {
    "encoder": {
        "step_agreement": 0.875,
        "step_agreement_per_scale": [1.0, 0.75],
        "agreement": 0.625,
        "agreement_per_scale": [1.0, 0.5],
    },
    "decoder": {
        "psnr": 48.5,
        "psnr_min": 46.25,
        "psnr_drop": 0.05,
        "psnr_drop_max": 0.23,
        "psnr_to_input": 20.95,
        "reference_psnr_to_input": 21.0,
    },
}
MEASURED = {"encoder": TOKENS, "quantizer": TOKENS, "decoder": PIXELS}
