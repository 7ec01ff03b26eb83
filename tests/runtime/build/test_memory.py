"""What the graph tells of an engine's memory: counted by hand for graphs of a few tensors, parsed by TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from coda_runtime.backends.tensorrt.library import EngineLibrary
from coda_runtime.build.memory import PartMemory, ProfileMemory, estimate_memory
from coda_runtime.format.profiles import Batch
from tests.runtime import tiny

TWO: tuple[Batch, Batch] = ((1, 1, 1), (8, 16, 32))


def estimate(folder: Path, rtx: EngineLibrary, nodes: list[tuple[str, str, str]]) -> tuple[ProfileMemory, ...]:
    """Of a graph x -> z, both float32 [B, 4]: `nodes` are (operator, its inputs, its output), of one letter each."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in "xz"]
    made = [helper.make_node(operator, list(inputs), [output]) for operator, inputs, output in nodes]
    constant = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0] * 4)
    model = helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], [constant]))
    return estimate_memory(rtx, folder / "graph.onnx", model.SerializeToString(), TWO)


@pytest.mark.parametrize(
    ("nodes", "alive"),
    [
        ([("Relu", "x", "z")], 0),
        ([("Relu", "x", "a"), ("Relu", "a", "z")], 1),
        ([("Relu", "x", "a"), ("Sigmoid", "a", "b"), ("Relu", "b", "z")], 2),
        ([("Relu", "x", "a"), ("Sigmoid", "a", "b"), ("Tanh", "b", "c"), ("Relu", "c", "z")], 2),
        ([("Relu", "x", "a"), ("Sigmoid", "a", "b"), ("Tanh", "b", "c"), ("Add", "ac", "z")], 3),
    ],
)
def test_a_tensor_is_kept_until_its_last_reader(
    tmp_path: Path, rtx: EngineLibrary, nodes: list[tuple[str, str, str]], alive: int
) -> None:
    row = 4 * 4
    small, large = estimate(tmp_path, rtx, nodes)
    assert small == ProfileMemory((1, 1, 1), 2 * row, alive * row)
    assert large == ProfileMemory((8, 16, 32), 32 * 2 * row, 32 * alive * row)


def test_weights_are_the_engine_s_own(tmp_path: Path, rtx: EngineLibrary) -> None:
    small, large = estimate(tmp_path, rtx, [("Relu", "x", "a"), ("Mul", "aw", "z")])
    assert small.activation_bytes is not None
    assert large.activation_bytes is not None
    # The weights of a product may be a tensor of the network's own, which is as large for every batch.
    assert 16 <= small.activation_bytes <= 32
    assert large.activation_bytes - small.activation_bytes == 31 * 16


def test_rows_that_are_not_images_are_counted_as_many_as_they_are(tmp_path: Path, rtx: EngineLibrary) -> None:
    """As in the quantizer's search: [B * 4, 1] rows, then each of them against three codes."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in "xz"]
    tensors = [
        helper.make_tensor("rows", TensorProto.INT64, [2], [-1, 1]),
        helper.make_tensor("back", TensorProto.INT64, [2], [-1, 4]),
        helper.make_tensor("codes", TensorProto.FLOAT, [1, 3], [1.0] * 3),
    ]
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["a"]),
        helper.make_node("MatMul", ["a", "codes"], ["b"]),
        helper.make_node("ReduceMax", ["b", "last"], ["c"], keepdims=1),
        helper.make_node("Reshape", ["c", "back"], ["z"]),
    ]
    tensors.append(helper.make_tensor("last", TensorProto.INT64, [1], [-1]))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    small, large = estimate_memory(rtx, tmp_path / "graph.onnx", model.SerializeToString(), TWO)
    assert (small.activation_bytes, large.activation_bytes) == (16 + 48, 32 * (16 + 48))


@pytest.mark.parametrize("file", tiny.FILES[:3])
def test_a_part_of_a_bundle(sealed: Path, rtx: EngineLibrary, file: str) -> None:
    small, large = estimate_memory(rtx, sealed / file, (sealed / file).read_bytes(), TWO)
    assert large.io_bytes == 32 * small.io_bytes > 0
    assert small.activation_bytes is not None
    assert large.activation_bytes is not None
    assert 0 < small.activation_bytes < large.activation_bytes


def test_json() -> None:
    part = PartMemory("encoder", "fp32", (ProfileMemory((1, 4, 8), 96, None),))
    profiles = [{"batch": [1, 4, 8], "io_bytes": 96, "activation_bytes": None}]
    assert part.to_json() == {"part": "encoder", "precision": "fp32", "profiles": profiles}
