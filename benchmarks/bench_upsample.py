"""Doubling and its convolution, as PyTorch exports them and folded, interleaved one way or the other.

``python -m benchmarks.bench_upsample [--rounds 9] [--json FILE]``: the last upsamplings of FLUX's decoder, batch 1,
float32 on onnxruntime's CPU provider and bf16 by OpenVINO. coda_export/folding/upsample.py chooses by it.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import onnx
import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from benchmarks.common import interleaved, save, show
from coda_export.folding import upsample
from coda_export.folding.precision import DTYPES
from coda_runtime.backends.base import LoadOptions, Session
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.spec import Spec

SHAPES = ((512, 32), (512, 64), (256, 128))
"""(channels, side before)"""
SPEC = Spec("a graph alone", 256, 8, 4, 1, (1,), 1)
PLAIN = "Resize and Conv"
WAYS = {
    "folded, stacked": upsample.interleave_by_stacking,
    "folded, transposed": upsample.interleave_by_transposing,
}


class _Ends(nn.Module):
    """float32 in and out, with an output so small that its cast takes no time."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(cast(Tensor, self.inner(x.to(self.dtype))), 8).float()


def _load(module: nn.Module, precision: str, x: Tensor, path: Path) -> Session:
    program = torch.onnx.export(
        _Ends(module, DTYPES[precision]).eval(), (x,), opset_version=22, dynamo=True, external_data=False, verbose=False
    )
    assert program is not None
    onnx.save(program.model_proto, path)
    artifact = Artifact("encoder", "onnx", precision, path.name, "0" * 64, path.stat().st_size)
    alone = Bundle(path.parent, Manifest(SPEC, (artifact,)), b"")
    return OnnxRuntimeBackend().load(alone, artifact, LoadOptions("cpu"))


def measure(channels: int, side: int, precision: str, rounds: int, folder: Path) -> dict[str, float]:
    """Measure the median seconds of each form."""
    torch.manual_seed(0)
    module = Upsample2D(channels, use_conv=True).eval().requires_grad_(False)
    x = torch.randn(1, channels, side, side)
    folded = upsample.FoldedUpsample(cast(nn.Conv2d, module.conv))
    sessions = {PLAIN: _load(module, precision, x, folder / "plain.onnx")}
    for name, way in WAYS.items():
        with (
            mock.patch.object(upsample, "interleave_by_stacking", way),
            mock.patch.object(upsample, "interleave_by_transposing", way),
        ):
            sessions[name] = _load(folded, precision, x, folder / f"{len(sessions)}.onnx")
    batch = x.numpy().astype(np.float32)
    return interleaved({name: partial(session.run, batch) for name, session in sessions.items()}, rounds)


def main() -> None:
    """Measure all shapes in both precisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            for channels, side in SHAPES:
                name = f"{channels} channels, {side} to {2 * side}, {precision}"
                results[name] = measure(channels, side, precision, args.rounds, Path(folder))
                show(name, results[name], PLAIN)
    save(args.json, results)


if __name__ == "__main__":
    main()
