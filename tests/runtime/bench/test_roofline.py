"""The share of the processor that is reached, where it can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coda_runtime.bench.roofline import min_bytes, peak_bytes, peak_flops, work_of
from coda_runtime.format.bundle import Bundle
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


def test_the_ceilings_are_rates() -> None:
    assert peak_flops() > 1e6
    assert 1e7 < peak_bytes() < 1e14


def test_a_call_moves_its_files_once_a_run_and_what_goes_in_and_out(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    size = {part: (bundle / f"{part}.fp32.onnx").stat().st_size for part in ("encoder", "quantizer", "decoder")}
    files = [LoadedArtifact(part, "onnx", "fp32", "onnxruntime", "cpu", f"{part}.fp32.onnx") for part in size]
    spec = opened.spec
    image, ids = 3 * spec.image_size**2, 4 * spec.num_tokens
    latent = 4 * spec.latent_channels * spec.latent_size**2
    assert min_bytes(opened, files, ("decoder",), 1, 1) == size["decoder"] + ids + image
    each = image + 2 * latent + ids
    assert min_bytes(opened, files, ("encoder", "quantizer"), 5, 2) == (
        2 * (size["encoder"] + size["quantizer"]) + 5 * each
    )
