"""What the table finds in a graph: a type, an opset, an operator inside another, and what is taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cuda_kernels import table
from tests.cuda_kernels.placement import without_kernel

RELEASES = table.read()
OLDEST, NEWEST = next(iter(RELEASES.values())), RELEASES[[*RELEASES][-1]]
AXIS = numpy_helper.from_array(np.int64([1]), "axis")


def info(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int | str] = ("B", 4)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: list[Any], opset: int, *constants: Any, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A graph from x [B, 4] to y [B, 4]."""
    graph = helper.make_graph(nodes, "g", [info("x", kind)], [info("y", kind)], [*constants])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def row_maximum(source: str = "x", target: str = "y") -> list[Any]:
    """The maximum of each row, in each of its columns."""
    return [
        helper.make_node("ReduceMax", [source, "axis"], ["most"], keepdims=1),
        helper.make_node("Min", [source, "most"], [target]),
    ]


def test_a_type_that_the_kernel_does_not_take() -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    assert without_kernel(model(nodes, 20), NEWEST) == []
    assert without_kernel(model(nodes, 20, kind=TensorProto.BFLOAT16), NEWEST) == ["Log(13) of bfloat16"]


def test_an_operator_that_has_no_kernel_at_all() -> None:
    assert without_kernel(model([helper.make_node("Hardmax", ["x"], ["y"])], 20), NEWEST) == ["Hardmax(13) of float"]


@pytest.mark.parametrize(
    ("opset", "release", "found"),
    [(18, OLDEST, []), (20, OLDEST, ["ReduceMax(20) of float, int64"]), (20, NEWEST, [])],
    ids=["18 in the oldest", "20 in the oldest", "20 in the newest"],
)
def test_an_opset_that_is_too_new(opset: int, release: table.Release, found: list[str]) -> None:
    assert without_kernel(model(row_maximum(), opset, AXIS), release) == found


def scan(body: Any) -> Any:
    return helper.make_node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)


def loop(body: Any) -> Any:
    return helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)


def test_inside_a_scan() -> None:
    """The axis is a constant of the graph around it."""
    rows = [helper.make_node("Unsqueeze", ["row", "first"], ["one"]), *row_maximum("one", "both")]
    rows += [helper.make_node("Squeeze", ["both", "first"], ["out"]), helper.make_node("Identity", ["s"], ["kept"])]
    ends = [info("s", shape=[1]), info("row", shape=[4])], [info("kept", shape=[1]), info("out", shape=[4])]
    body = helper.make_graph(rows, "body", *ends, [numpy_helper.from_array(np.int64([0]), "first")])
    start = numpy_helper.from_array(np.zeros(1, np.float32), "start")
    assert without_kernel(model([scan(body)], 18, AXIS, start), OLDEST) == []
    assert without_kernel(model([scan(body)], 20, AXIS, start), OLDEST) == ["ReduceMax(20) of float, int64 in Scan"]


def test_inside_a_loop_and_an_if_in_it() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(row_maximum("state", name), name, [], [info(name)])
        for name in ("then", "else")
    }
    nodes = [helper.make_node("If", ["on"], ["new"], **branches), helper.make_node("Identity", ["on"], ["again"])]
    flag = {name: info(name, TensorProto.BOOL, []) for name in ("on", "again")}
    ends = [info("i", TensorProto.INT64, []), flag["on"], info("state")], [flag["again"], info("new")]
    body = helper.make_graph(nodes, "body", *ends)
    times = numpy_helper.from_array(np.int64(2), "times")
    assert without_kernel(model([loop(body)], 18, AXIS, times), OLDEST) == []
    assert without_kernel(model([loop(body)], 20, AXIS, times), OLDEST) == ["ReduceMax(20) of float, int64 in If"] * 2


def test_what_no_provider_has_is_taken_apart() -> None:
    """GroupNormalization in bfloat16 becomes a dozen operators, which are looked at in its place."""
    kind = TensorProto.BFLOAT16
    node = helper.make_node("GroupNormalization", ["x", "ones", "ones"], ["y"], num_groups=2)
    ones = helper.make_tensor("ones", kind, [4], [1, 1, 1, 1])
    made = model([node], 22, ones, kind=kind)
    made.graph.input[0].CopyFrom(info("x", kind, ("B", 4, 8, 8)))
    made.graph.output[0].CopyFrom(info("y", kind, ("B", 4, 8, 8)))
    assert without_kernel(made, OLDEST) == []
    none = {**OLDEST.kernels[table.CUDA], "Sqrt": ()}
    without_sqrt = table.Release("without Sqrt", {**OLDEST.kernels, table.CUDA: none})
    assert without_kernel(made, without_sqrt) == ["Sqrt(13) of float"]


def test_a_value_of_unknown_type_is_no_guess() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], 20)
    made.graph.input[0].type.Clear()
    with pytest.raises((ValueError, onnx.shape_inference.InferenceError)):
        without_kernel(made, NEWEST)
