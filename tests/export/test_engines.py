"""The exporter's graphs, all precisions, as engines of TensorRT-RTX, whose builder needs no GPU.

That proves that they parse, that every layer has the type its precision promises, and that they can be planned for the
named GPUs. It does not prove that the engines run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from coda_runtime.build.bundle import EngineRequest, add_engines
from coda_runtime.build.options import BuildOptions
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Manifest

LOW = {"fp16": "HALF", "bf16": "BF16"}


@pytest.fixture(scope="module")
def built(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    out = tmp_path_factory.mktemp("engines") / "bundle"
    request = EngineRequest("tensorrt-rtx", BuildOptions((1, 4, 8), ("sm86", "sm89", "sm120")))
    add_engines(tiny_bundle, request, out=out)
    Bundle.open(out).verify("always")
    return Bundle.open(out).manifest


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_layers_have_the_types_of_their_precision(built: Manifest, part: str, precision: str) -> None:
    (artifact,) = built.find(part, format="tensorrt-rtx", precision=precision)
    assert artifact.engine is not None
    layers = artifact.engine["layers"]
    assert set(layers["NORMALIZATION"]) == {"FLOAT"}, "statistics stay float32"
    assert set(layers["SOFTMAX"]) == {"FLOAT"}, "as do the scores of attention"
    convolutions = layers["CONVOLUTION"]
    if precision == "fp32":
        assert set(convolutions) == {"FLOAT"}
    else:
        assert set(convolutions) == {LOW[precision], "FLOAT"}
        assert convolutions["FLOAT"] == 1, "the last one"
        assert convolutions[LOW[precision]] > 5


def test_the_search_is_float32(built: Manifest) -> None:
    (artifact,) = built.find("quantizer", format="tensorrt-rtx")
    assert artifact.engine is not None
    assert artifact.engine["flags"]["tf32"] is False
    for kind in ("MATRIX_MULTIPLY", "TOPK", "REDUCE"):
        assert set(artifact.engine["layers"][kind]) == {"FLOAT"}
