"""The share of the processor that is reached, where it can be told."""

from __future__ import annotations

from typing import Any

import pytest

from coda_runtime.bench.roofline import peak_flops, work_of
from coda_runtime.tokenizer import LoadedArtifact

FLOPS = {"flops": {"encoder": 100, "quantizer": 20, "decoder": 300}}


def loaded(part: str, device: str = "cpu", precision: str = "fp32") -> LoadedArtifact:
    return LoadedArtifact(part, "onnx", precision, "onnxruntime", device, f"{part}.onnx")


ALL = [loaded(part) for part in ("encoder", "quantizer", "decoder")]


def test_the_parts_of_an_operation_add_up() -> None:
    assert work_of(FLOPS, ALL, ("encoder", "quantizer")) == 120
    assert work_of(FLOPS, ALL, ("decoder",)) == 300
    assert work_of(FLOPS, [loaded("decoder", "openvino:cpu")], ("decoder",)) == 300


@pytest.mark.parametrize(
    ("provenance", "artifact"),
    [
        ({}, loaded("encoder")),
        ({"flops": {"decoder": 1}}, loaded("encoder")),
        ({"flops": [1, 2]}, loaded("encoder")),
        ({"flops": {"encoder": "many"}}, loaded("encoder")),
        ({"flops": {"encoder": True}}, loaded("encoder")),
        (FLOPS, loaded("encoder", "cuda:0")),
        (FLOPS, loaded("encoder", "openvino:cpu", "bf16")),
    ],
)
def test_it_is_left_out_where_it_is_unknown(provenance: dict[str, Any], artifact: LoadedArtifact) -> None:
    assert work_of(provenance, [artifact], ("encoder",)) is None


def test_the_ceiling_is_a_rate() -> None:
    assert peak_flops() > 1e6
