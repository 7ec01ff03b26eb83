"""The exporter's graphs, all precisions, as engines of TensorRT-RTX, whose builder needs no GPU.

That proves that they parse, that every layer has the type its precision promises, and that they can be planned for the
named GPUs. It does not prove that the engines run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from coda_export.int8 import quantized_graph
from coda_runtime.backends.tensorrt.library import find_library
from coda_runtime.build.builder import build_engine
from coda_runtime.build.bundle import EngineRequest, add_engines
from coda_runtime.build.options import BuildOptions
from coda_runtime.errors import BuildError
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


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_int8_is_what_convolutions_compute_in(tiny_bundle: Path, tmp_path: Path, part: str) -> None:
    with np.load(tiny_bundle / "parity.fp32.npz") as samples:
        rows = samples["images" if part == "encoder" else "ids"][:2]
    path = tmp_path / "graph.onnx"
    onnx.save(quantized_graph(onnx.load(tiny_bundle / f"{part}.fp32.onnx"), rows), path)
    options = BuildOptions((1, 4, 8), ("sm89", "sm120"))
    made = build_engine(find_library("tensorrt-rtx"), path, options, precision="int8")
    convolutions = made.layers["CONVOLUTION"]
    assert convolutions["FLOAT"] <= 3, "the first ones and the last"
    assert convolutions["INT8"] >= 10
    with pytest.raises(BuildError, match=r"meant to be int8, and of its \d+ convolutions .* \d+ in FLOAT"):
        build_engine(find_library("tensorrt-rtx"), tiny_bundle / f"{part}.fp32.onnx", options, precision="int8")
