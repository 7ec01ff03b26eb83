"""Exported graphs on the package openvino: attention in the middle, uint8 in and out, in every precision it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import coda_runtime
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.openvino import library
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.parity import Measured, NotMeasured
from coda_runtime.parity import SavedReference, measure_bundle

pytest.importorskip("openvino", reason="openvino is not installed")


def test_it_is_measured_as_any_backend(tiny_bundle: Path) -> None:
    options = LoadOptions("cpu", "openvino")
    found = {artifact.file: parity for artifact, parity, _ in measure_bundle(Bundle.open(tiny_bundle), options)}
    assert not [file for file in found if file.startswith("quantizer")], "it is not for that part"
    encoder, decoder = (found[f"{part}.fp32.onnx"]["openvino:cpu"] for part in ("encoder", "decoder"))
    assert isinstance(encoder, Measured)
    assert isinstance(decoder, Measured)
    assert (encoder.step_agreement or 0) >= 0.999
    assert decoder.psnr is None or decoder.psnr > 55
    refused = found["encoder.fp16.onnx"]["openvino:cpu"]
    assert isinstance(refused, NotMeasured)
    assert "is in fp16, and openvino runs fp32" in refused.reason


def test_bf16_is_measured_by_an_export_where_it_can_be(tiny_bundle: Path) -> None:
    if "BF16" not in library.capabilities():
        pytest.skip("this processor does not compute in bf16")
    for part in ("encoder", "decoder"):
        (artifact,) = Bundle.open(tiny_bundle).manifest.find(part, precision="bf16")
        (where,) = artifact.parity
        assert where in ("openvino:cpu", "onnxruntime:openvino:cpu")
        assert artifact.is_measured


def test_an_attention_s_graph_has_the_ids_of_onnxruntime(tiny_bundle: Path) -> None:
    samples = SavedReference.open(Bundle.open(tiny_bundle)).samples
    with (
        coda_runtime.load(tiny_bundle, "cpu", "onnxruntime", "fp32") as plain,
        coda_runtime.load(tiny_bundle, backend="openvino", precision="fp32") as tok,
    ):
        assert (plain.encode(samples.images) == tok.encode(samples.images)).mean() > 0.999
