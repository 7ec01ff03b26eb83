"""Exported bf16 graphs on OpenVINO, which runs them where onnxruntime's own CPU provider cannot."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import coda_runtime
from coda_runtime.codes.metrics import psnr_per_image
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("openvino_device")


def test_bf16_graphs_run_as_exported(tiny_bundle: Path) -> None:
    """Opset 22, attention in the middle, uint8 in and out; the quantizer stays on the CPU provider."""
    operators = {node.op_type for node in onnx.load(tiny_bundle / "encoder.bf16.onnx").graph.node}
    assert {"Softmax", "GroupNormalization", "Conv"} <= operators
    with (
        coda_runtime.load(tiny_bundle, backend="onnxruntime", device="cpu", precision="fp32") as plain,
        coda_runtime.load(tiny_bundle, backend="onnxruntime", device="cpu", precision="bf16") as tok,
    ):
        assert [part.device for part in tok.artifacts] == ["openvino:cpu", "cpu", "openvino:cpu"]
        side = tok.spec.image_size
        pictures = tiny.photos(2, side, side)
        ids = plain.encode(pictures)
        assert 30 < psnr_per_image(tok.decode(ids), plain.decode(ids)).min() < 90
        assert 0.3 < (tok.encode(pictures) == ids).mean() < 1
