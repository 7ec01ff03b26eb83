"""Every graph that an export writes runs on the GPU by onnxruntime-gpu, in each release that the extra `gpu` takes.

By the recorded table of CUDA kernels. tests/cuda_kernels/test_wheels.py asks the releases themselves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.sample import tokenizer_path
from coda_export import DEFAULT_OPSET, Folded
from coda_export.graphs import decoder_graph, encoder_graph, quantizer_graph
from coda_export.int8 import quantized_graph
from tests.cuda_kernels import placement, table
from tests.tiny_tokenizers import images, make

RELEASES = table.read()
VARIANTS = ["mar", "flux"]
# ONNX changed Round in 22, the opset of bf16's convolutions; the kernel for that came later.
LATE = {"1.24.4", "1.25.0", "1.26.0"}


def lacking(model: onnx.ModelProto) -> dict[str, set[str]]:
    """By release the nodes that would run on the CPU."""
    found = {name: set(placement.without_kernel(model, release)) for name, release in RELEASES.items()}
    return {name: nodes for name, nodes in found.items() if nodes}


def expected(part: str, precision: str) -> dict[str, set[str]]:
    return {name: {"Round(22) of float"} for name in LATE} if (part, precision) == ("decoder", "bf16") else {}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_encoders_and_decoders(tiny_bundle: Path, part: str, precision: str) -> None:
    assert lacking(onnx.load(tiny_bundle / f"{part}.{precision}.onnx")) == expected(part, precision)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_int8(tiny_bundle: Path, part: str) -> None:
    rows = images(4).numpy()
    if part == "decoder":
        tokens = onnx.load(tiny_bundle / "decoder.fp32.onnx").graph.input[0].type.tensor_type.shape.dim[1].dim_value
        rows = np.random.default_rng(0).integers(0, 64, (4, tokens), np.int32)
    model = quantized_graph(onnx.load(tiny_bundle / f"{part}.fp32.onnx"), rows)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    assert lacking(model) == {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_quantizers(variant: str) -> None:
    model = quantizer_graph(fold_tokenizer(make(variant)).quantizer)
    assert "Scan" in {node.op_type for node in model.graph.node}
    assert lacking(model) == {}


def test_a_quantizer_of_before_has_its_search_on_the_cpu() -> None:
    """Opset 20, as coda 0.1 exported it: the fault that the table is here to see."""
    folder = Path(__file__).parents[1] / "compatibility/data/0.1/bundle"
    found = lacking(onnx.load(folder / "quantizer.fp32.onnx"))
    inside, pad = "ReduceMax(20) of float, int64 in Scan", "Pad(19) of float, int64"
    assert found == {"1.24.4": {inside, pad}, "1.25.0": {inside}, "1.26.0": {inside}}


@pytest.fixture(scope="module")
def sample() -> Folded:
    return fold_tokenizer(CodaTokenizer.from_pretrained(tokenizer_path()))


def test_the_sample_s_quantizer(sample: Folded) -> None:
    assert lacking(quantizer_graph(sample.quantizer)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tokenizer", ["sample", *VARIANTS])
def test_all_of_the_sample_and_of_both_variants(sample: Folded, tokenizer: str, precision: str) -> None:
    folded = sample if tokenizer == "sample" else fold_tokenizer(make(tokenizer))
    assert lacking(encoder_graph(folded, precision, DEFAULT_OPSET)) == {}
    assert lacking(decoder_graph(folded, precision, DEFAULT_OPSET)) == expected("decoder", precision)
