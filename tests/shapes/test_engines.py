"""Full-size tokenizers as TensorRT-RTX engines: minutes, so `make shapes` and CI run them, `make test` does not.

That every graph parses, has the types of its precision and can be planned for three GPUs in one engine. Not that the
engines run: there is no GPU here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.engine_log import layers_of
from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.official import import_official
from coda_deploy.sample import tokenizer_path
from coda_export import DEFAULT_OPSET, Folded
from coda_export.graphs import decoder_graph, encoder_graph, quantizer_graph
from coda_export.int8 import quantized_graph
from coda_runtime.backends.tensorrt.inspection import check_precision
from coda_runtime.backends.tensorrt.library import find_library
from coda_runtime.build.builder import BuiltEngine, build_engine
from coda_runtime.build.memory import estimate_memory
from coda_runtime.build.options import BuildOptions
from coda_runtime.format.parts import PARTS
from tests.golden import write_checkpoint

pytestmark = pytest.mark.shapes
OPTIONS = BuildOptions((1, 4, 8), ("sm86", "sm89", "sm120"))
GRAPHS = {"encoder": encoder_graph, "decoder": decoder_graph}


@pytest.fixture(scope="module", params=["sample", "mar_v16384", "flux_v65536"])
def folded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folded]:
    if request.param == "sample":
        yield fold_tokenizer(CodaTokenizer.from_pretrained(tokenizer_path()))
        return
    official = write_checkpoint(request.param, tmp_path_factory.mktemp("shapes") / "official")
    yield fold_tokenizer(import_official(official, request.param))
    for file in official.iterdir():
        file.unlink()


def build(model: onnx.ModelProto, folder: Path, precision: str) -> BuiltEngine:
    onnx.save(model, folder / "graph.onnx")
    messages: list[str] = []
    library, file = find_library("tensorrt-rtx"), folder / "graph.onnx"
    made = build_engine(library, file, OPTIONS, precision=precision, listen=messages.append)
    # What `coda build` asks the inspector of, where there is a GPU.
    check_precision(json.dumps({"Layers": [one.to_json() for one in layers_of("\n".join(messages))]}), precision)
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_builds(folded: Folded, tmp_path: Path, part: str, precision: str) -> None:
    made = build(GRAPHS[part](folded, precision, DEFAULT_OPSET), tmp_path, precision)
    convolutions = made.layers["CONVOLUTION"]
    if precision == "bf16":
        assert convolutions["FLOAT"] == 1, "the last one"
        assert convolutions["BF16"] > 10
        # The weights are stored in 2 bytes: an engine that is secretly float32 would be twice as large. In the sample's
        # engine there is more beside the weights.
        weights = sum(p.numel() for p in getattr(folded, part).parameters())
        assert weights < 1e7 or len(made.data) < 3.2 * weights
    else:
        assert set(convolutions) == {"FLOAT"}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_builds_in_int8(folded: Folded, tmp_path: Path, part: str) -> None:
    tensor = PARTS[part].input
    rows = np.random.default_rng(0).integers(0, 256, tensor.shape(folded.spec, 1)).astype(tensor.dtype)
    made = build(quantized_graph(GRAPHS[part](folded, "int8", DEFAULT_OPSET), rows), tmp_path, "int8")
    convolutions = made.layers["CONVOLUTION"]
    assert set(convolutions) == {"FLOAT", "INT8"}
    assert convolutions["FLOAT"] <= 3, "the first ones and the last"
    assert convolutions["INT8"] > 10


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_sample_builds_with_two_profiles(tmp_path: Path, part: str) -> None:
    sample = fold_tokenizer(CodaTokenizer.from_pretrained(tokenizer_path()))
    onnx.save(GRAPHS[part](sample, "fp32", DEFAULT_OPSET), tmp_path / "graph.onnx")
    options = BuildOptions([(8, 16, 32), (1, 1, 1)], ("sm89",))
    rtx = find_library("tensorrt-rtx")
    made = build_engine(rtx, tmp_path / "graph.onnx", options, precision="fp32")
    row = PARTS[part].input.row(sample.spec)
    held = [count for count in (1, 8, 16, 32, 64) if struct.pack(f"<{len(row) + 1}q", count, *row) in made.data]
    assert held == [1, 8, 16, 32]
    assert made.scratch_bytes is not None
    for planned, guessed in zip(
        made.scratch_bytes,
        estimate_memory(rtx, tmp_path / "graph.onnx", (tmp_path / "graph.onnx").read_bytes(), options.profiles),
        strict=True,
    ):
        assert guessed.activation_bytes is not None
        assert 0.3 < guessed.activation_bytes / planned < 3


def test_the_quantizer_builds(folded: Folded, tmp_path: Path) -> None:
    made = build(quantizer_graph(folded.quantizer), tmp_path, "fp32")
    assert set(made.layers["MATRIX_MULTIPLY"]) == {"FLOAT"}
