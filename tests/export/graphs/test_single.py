"""Encoder and quantizer in one graph: the same ids as one after the other, and each table once."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from coda_export.graphs import QUANTIZER_OPSET, encode_graph
from coda_export.graphs.builder import GraphBuilder
from coda_runtime.format.parts import IDS, IMAGE, LATENT


def opset(model: onnx.ModelProto) -> int:
    return int(model.opset_import[0].version)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, value: NDArray[Any]) -> NDArray[Any]:
    made = session(model)
    return np.asarray(made.run(None, {made.get_inputs()[0].name: value})[0])


def names(graph: onnx.GraphProto) -> list[str]:
    return [name for node in graph.node for name in node.output] + [table.name for table in graph.initializer]


@pytest.fixture(scope="module", params=("fp32", "fp16", "bf16"))
def parts(request: pytest.FixtureRequest, tiny_bundle: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return onnx.load(tiny_bundle / f"encoder.{request.param}.onnx"), onnx.load(tiny_bundle / "quantizer.fp32.onnx")


def test_what_it_is_made_of(parts: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    encoder, quantizer = parts
    before = encoder.SerializeToString(deterministic=True), quantizer.SerializeToString(deterministic=True)
    joined = encode_graph(encoder, quantizer)
    assert before == (encoder.SerializeToString(deterministic=True), quantizer.SerializeToString(deterministic=True))
    assert opset(quantizer) == QUANTIZER_OPSET < opset(encoder) == opset(joined)
    assert [value.name for value in (*joined.graph.input, *joined.graph.output)] == [IMAGE.name, IDS.name]
    assert len(joined.graph.node) == len(encoder.graph.node) + len(quantizer.graph.node)
    assert [name for name, count in Counter(names(joined.graph)).items() if count > 1] == []
    nodes = Counter(node.name for node in joined.graph.node)
    assert max(nodes.values()) == 1
    tables = [t for t in joined.graph.initializer if len(t.raw_data) > 1024]
    contents = Counter(hashlib.sha256(table.raw_data).hexdigest() for table in tables)
    assert contents
    assert max(contents.values()) == 1
    types = {t.data_type for t in joined.graph.initializer if t.name.startswith("quantizer/") and len(t.raw_data) > 64}
    assert types <= {TensorProto.FLOAT, TensorProto.INT64}


@pytest.fixture(scope="module")
def sessions(tiny_bundle: Path) -> list[onnxruntime.InferenceSession]:
    """Of the joined graph, the encoder and the quantizer."""
    encoder, quantizer = (onnx.load(tiny_bundle / f"{name}.fp32.onnx") for name in ("encoder", "quantizer"))
    return [session(model) for model in (encode_graph(encoder, quantizer), encoder, quantizer)]


@settings(max_examples=30)
@given(batch=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_same_ids(sessions: list[onnxruntime.InferenceSession], batch: int, seed: int) -> None:
    joined, encoder, quantizer = sessions
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    (ids,) = joined.run(None, {IMAGE.name: pixels})
    assert ids.dtype == np.int32
    (latent,) = encoder.run(None, {IMAGE.name: pixels})
    assert (ids == quantizer.run(None, {LATENT.name: latent})[0]).all()


def named(outputs: list[str]) -> onnx.ModelProto:
    """An encoder by hand whose values have these names."""
    graph, value = GraphBuilder(), IMAGE.name
    for name in (*outputs, LATENT.name):
        value = graph.node("Identity", value, name=name)
    image, latent = ((name, TensorProto.FLOAT, ["batch", 2, 2]) for name in (IMAGE.name, LATENT.name))
    return graph.model("by_hand", [image], [latent], 20)


def search(outer: str) -> onnx.ModelProto:
    """A quantizer by hand whose Scan reads an initializer and a value of the graph around it."""
    graph, body = GraphBuilder(), GraphBuilder("body/")
    table = graph.constant(np.ones((3, 2, 2), np.float32), outer)
    double = graph.node("Add", LATENT.name, LATENT.name, name="double")
    body.node("Add", "step", double, name="sum")
    body.node("Add", "sum", table, name="out")
    step = body.graph("step", [("step", TensorProto.FLOAT, [2, 2])], [("out", TensorProto.FLOAT, ["batch", 2, 2])])
    scanned = graph.nodes_of("Scan", 1, table, body=step, num_scan_inputs=1)[0]
    graph.node("Cast", scanned, name=IDS.name, to=TensorProto.INT32)
    ends = [(LATENT.name, TensorProto.FLOAT, ["batch", 2, 2])], [(IDS.name, TensorProto.INT32, [3, "batch", 2, 2])]
    return graph.model("by_hand", *ends, 20)


@pytest.mark.parametrize("own", [["double", "sum", "step", "out"], ["latent_2", "table"]])
def test_names_of_both_do_not_meet(own: list[str]) -> None:
    quantizer = search("table")
    joined = encode_graph(named(own), quantizer)
    value = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    assert (run(joined, value) == run(quantizer, value)).all()


def test_a_name_that_is_the_quantizers(parts: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    with pytest.raises(ValueError, match="quantizer/double"):
        encode_graph(named(["quantizer/double"]), search("table"))
    with pytest.raises(ValueError, match="'ids'"):
        encode_graph(named([IDS.name]), search("table"))
