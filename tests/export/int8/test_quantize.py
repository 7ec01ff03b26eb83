"""A float32 graph in int8: what becomes integers, what stays, and that it computes nearly the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from coda_export.int8 import quantized_graph
from coda_export.int8.layers import equalise, quantized_layers, write_shapes
from coda_runtime import InputError
from coda_runtime.format.graph_model import read_model
from coda_runtime.format.graph_rules import check_model
from tests.tiny_tokenizers import images


def run(model: onnx.ModelProto, rows: NDArray[Any], *more: str) -> list[NDArray[Any]]:
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: rows})
    return found


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "encoder.fp32.onnx")


@pytest.fixture(scope="module")
def rows() -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = images(6).numpy()
    return found


@pytest.fixture(scope="module")
def made(encoder: onnx.ModelProto, rows: NDArray[np.uint8]) -> onnx.ModelProto:
    return quantized_graph(encoder, rows)


def test_all_convolutions_but_the_ends_are_integers(encoder: onnx.ModelProto, made: onnx.ModelProto) -> None:
    makers = {node.output[0]: node.op_type for node in made.graph.node}
    kinds = [makers.get(node.input[1]) for node in made.graph.node if node.op_type == "Conv"]
    assert kinds == [None, *["DequantizeLinear"] * (len(kinds) - 2), None]
    tables = {table.name: table for table in made.graph.initializer}
    weights = [node for node in made.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tables]
    assert len(weights) == len(kinds) - 2
    for node in weights:
        integers, scale = (numpy_helper.to_array(tables[name]) for name in node.input[:2])
        assert integers.dtype == np.int8
        assert scale.shape == integers.shape[:1], "a scale for each output channel"
        assert (np.abs(integers.reshape(len(integers), -1)).max(1) == 127).all()
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not numpy_helper.to_array(tables[node.input[2]]).any(), "symmetric: the zero point is 0"
        elif node.op_type == "Conv":
            assert len(node.input) == 2 or tables[node.input[2]].data_type == TensorProto.FLOAT


def test_it_computes_nearly_the_same(encoder: onnx.ModelProto, made: onnx.ModelProto) -> None:
    rows = images(3, seed=5).numpy()
    (exact,), (found,) = run(encoder, rows), run(made, rows)
    # Few channels of random weights: a trained tokenizer is off by 2 %.
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.2


def test_it_is_one_that_a_bundle_may_hold(made: onnx.ModelProto, encoder: onnx.ModelProto) -> None:
    check_model(read_model(made.SerializeToString()))
    large = [
        numpy_helper.to_array(table).tobytes() for table in made.graph.initializer if table.dims and table.dims[0] > 1
    ]
    weights = [content for content in large if len(content) > 64]
    assert len(weights) == len(set(weights)), "each table is stored once"
    assert made.opset_import == encoder.opset_import
    shapes = {node.output[0] for node in made.graph.node if node.op_type == "Shape"}
    assert not [node.name for node in made.graph.node if node.op_type == "Reshape" and node.input[1] in shapes]


def test_what_is_no_convolution_reads_what_was_not_rounded(made: onnx.ModelProto) -> None:
    """A shortcut's convolution reads integers; the sum and the normalisation beside it do not."""
    readers: dict[str, set[str]] = {}
    for node in made.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    restored = [node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear"]
    assert {frozenset(readers[name]) for name in restored} == {frozenset({"Conv"}), frozenset({"Mul"})}


def optimised(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """How many of each operator onnxruntime makes of a model."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_onnxruntime_computes_in_integers(made: onnx.ModelProto, tmp_path: Path) -> None:
    kinds = optimised(made, tmp_path)
    assert kinds["QLinearConv"] == len(quantized_layers(made))
    assert kinds["Conv"] + kinds["FusedConv"] == 2


def test_the_convolutions_of_a_doubling_too(tiny_bundle: Path, tmp_path: Path) -> None:
    """Four of them read one tensor, and share their bias."""
    decoder = onnx.load(tiny_bundle / "decoder.fp32.onnx")
    with np.load(tiny_bundle / "parity.fp32.npz") as samples:
        ids = samples["ids"]
    made = quantized_graph(decoder, ids)
    (exact,), (found,) = run(decoder, ids[:2]), run(made, ids[:2])
    assert np.abs(exact.astype(int) - found).mean() < 3
    kinds = optimised(made, tmp_path)
    assert kinds["QLinearConv"] == len(quantized_layers(decoder))


def test_equal_graphs_in_another_process(made: onnx.ModelProto, tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", images(6).numpy())
    script = (
        "import sys, numpy, onnx\n"
        "from coda_export.int8 import quantized_graph\n"
        "made = quantized_graph(onnx.load(sys.argv[1]), numpy.load(sys.argv[2]))\n"
        "sys.stdout.buffer.write(made.SerializeToString())"
    )
    words = [sys.executable, "-c", script, tiny_bundle / "encoder.fp32.onnx", tmp_path / "rows.npy"]
    done = subprocess.run(words, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert done.stdout == made.SerializeToString()
    assert done.stderr == b""


def test_equalised_it_computes_the_same(encoder: onnx.ModelProto, rows: NDArray[np.uint8]) -> None:
    equal = onnx.ModelProto()
    equal.CopyFrom(encoder)
    write_shapes(equal)
    rng = np.random.default_rng(0)
    sizes = {node.output[0]: node.input[1] for node in quantized_layers(equal)}
    tables = {table.name: table.dims[0] for table in equal.graph.initializer if table.dims}
    equalise(equal, {name: rng.uniform(0, 9, tables[weight]).astype(np.float32) for name, weight in sizes.items()})
    assert np.allclose(run(equal, rows)[0], run(encoder, rows)[0], rtol=1e-3, atol=1e-4)
    assert sum(node.op_type == "Mul" for node in equal.graph.node) > len(sizes)


@pytest.mark.parametrize("level", [0, 128])
def test_images_of_one_colour_name_the_layer(encoder: onnx.ModelProto, level: int) -> None:
    with pytest.raises(
        InputError, match=r"the layer encoder.conv_in reads nothing but one number a channel in each of"
    ):
        quantized_graph(encoder, np.full((3, 32, 32, 3), level, np.uint8))


def test_a_layer_that_overflows_is_named(encoder: onnx.ModelProto, rows: NDArray[np.uint8]) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(encoder)
    layer = quantized_layers(broken)[2]
    (table,) = (table for table in broken.graph.initializer if table.name == layer.input[1])
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table) * np.float32(np.inf), table.name))
    with pytest.raises(
        InputError, match=r"the layer encoder\.\S+ reads \S+ to \S+ in each of the 6 calibration images"
    ):
        quantized_graph(broken, rows)


def test_first_and_last_convolutions() -> None:
    """A decoder's 1x1 convolution of the latent and the one after it are both first ones."""
    names = ["latent", "mixed", "first", "silu", "inner", "last"]
    ops = ["Conv", "Conv", "Sigmoid", "Conv", "Conv"]
    nodes = [
        helper.make_node(op, [before, f"w{index}"] if op == "Conv" else [before], [after], name=after)
        for index, (op, before, after) in enumerate(zip(ops, names[:-1], names[1:], strict=True))
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    assert [node.name for node in quantized_layers(model)] == ["inner"]


def test_a_graph_without_a_convolution_between_the_ends_is_refused() -> None:
    """An empty list of layers would stand for all of them."""
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "last.weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "last.weight"], ["y"], name="conv")],
        "ends",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(InputError, match=r"no convolution of this graph can be int8: it has 1, .* leave int8 out"):
        quantized_graph(model, np.ones((2, 3, 4, 4), np.float32))
