"""Findings of a tokenizer of 5 tokens on one picture of 16 x 16 noise, made up in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from coda_deploy.demo.codes import usage
from coda_deploy.demo.results import DemoResults
from coda_deploy.demo.timing import Timing
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.spec import Spec

SPEC = Spec("tiny", 16, 8, 4, 32, (1, 2), 5)
TOKENS = {
    "step_agreement": 0.99999,
    "step_agreement_per_scale": [1.0, 0.99999],
    "agreement": 0.9,
    "agreement_per_scale": [1.0, 0.8],
}
PIXELS = {"psnr": None, "psnr_to_input": 21.0, "reference_psnr_to_input": 21.0}


def artifact(part: str, parity: dict[str, Any]) -> Artifact:
    return Artifact(part, "onnx", "fp32", f"{part}.fp32.onnx", "0" * 64, 1000, parity={"onnxruntime:cpu": parity})


def manifest(spec: Spec, *artifacts: Artifact) -> Manifest:
    return Manifest(spec=spec, provenance={}, default_precision="fp32", artifacts=artifacts)


def results(*, parity: dict[str, dict[str, Any]], name: str = "cat", same: bool = False) -> DemoResults:
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
        manifest=manifest(SPEC, *(artifact(part, numbers) for part, numbers in parity.items())),
        machine={"CPU": "<one> & only"},
    )


MEASURED = {"encoder": TOKENS, "quantizer": TOKENS, "decoder": PIXELS}
