"""What the exporter writes is on the list of what a bundle may hold, in every form that it can be asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.variants import VARIANTS
from coda_export.graphs import builder, decoder_graph, encoder_graph, quantizer_graph, vae
from coda_runtime.format.graph_check import check_graph
from coda_runtime.format.graph_model import RefusedError
from coda_runtime.format.graph_operators import MAX_NODES
from coda_runtime.format.parts import DECODER, ENCODER
from tests import exported_graphs
from tests.deploy.official import narrow
from tests.tiny_tokenizers import make


def check(model: onnx.ModelProto) -> None:
    check_graph(Path("graph.onnx"), model.SerializeToString())
    assert len(model.graph.node) < MAX_NODES / 4, "room for int8's operators around each of them"


def test_every_graph_of_a_test_is_looked_at() -> None:
    assert exported_graphs.is_watched(vae._without_traces)
    assert exported_graphs.is_watched(builder.GraphBuilder.model)
    graph = builder.GraphBuilder()
    graph.node("Unique", "x", name="y")
    with pytest.raises(RefusedError, match="'Unique' of ONNX is not among the operators"):
        graph.model("off_the_list", [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, [None])], 20)


def test_a_module_is_traced_once(tmp_path: Path) -> None:
    """And again where anything differs that the graph is made of."""
    graph = builder.GraphBuilder()
    graph.node("Relu", "x", name="y")
    model = graph.model("made", [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["n"])], 20)
    traced: list[tuple[Any, ...]] = []

    def export(*arguments: Any) -> onnx.ModelProto:
        traced.append(arguments)
        return model

    once = exported_graphs.traced_once(export, tmp_path / "traced")
    folded = fold_tokenizer(make())
    asked = folded.encoder, ENCODER, folded.spec, 20
    assert once(*asked) == once(*asked) == model
    assert len(traced) == 1
    for other in ((*asked[:3], 21), (asked[0], DECODER, *asked[2:]), (folded.decoder, *asked[1:])):
        once(*other)
        assert traced.pop() == other
    with torch.no_grad():
        next(folded.encoder.parameters()).view(-1)[0] += 1
    once(*asked)
    assert len(traced) == 2


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["mar_v16384", "flux_v65536"])
def test_published_variants(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """With fewer channels, and all of their layers and scales."""
    real = VARIANTS[variant]
    small = narrow.narrow_variants()[variant]
    monkeypatch.setitem(
        VARIANTS, variant, dataclasses.replace(small, image_size=real.image_size, scales=real.scales, vocab_size=4096)
    )
    folded = fold_tokenizer(narrow.checkpoint(variant)[0])
    check(encoder_graph(folded, "fp32", 20))
    check(quantizer_graph(folded.quantizer))
    check(decoder_graph(folded, "fp32", 20))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_opsets(opset: int, precision: str) -> None:
    """From 21 on GroupNorm is an operator of its own; 23 has more of them."""
    folded = fold_tokenizer(make("mar"))
    check(encoder_graph(folded, precision, opset))
    check(decoder_graph(folded, precision, opset))


def test_scales_and_codes_that_are_as_many_as_can_be() -> None:
    tok: CodaTokenizer = make(vocab_size=70_000, image_size=64, scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    check(quantizer_graph(fold_tokenizer(tok).quantizer))
