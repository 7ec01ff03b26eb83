from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from coda_runtime.backends.onnxruntime.placement import OF_SHAPES, Placed, placed, work_on_cpu
from coda_runtime.backends.onnxruntime.providers import CPU, CUDA
from tests.runtime.backends.onnxruntime import graphs

SCALAR = numpy_helper.from_array(np.int64(1), "one")


def left(*nodes: tuple[str, str]) -> list[Placed]:
    """These on the CPU, and a convolution on the GPU."""
    return [Placed(CUDA, "Conv", "conv"), *(Placed(CPU, operator, name) for operator, name in nodes)]


def model(nodes: list[Any], *more: Any) -> bytes:
    """A graph from x float32 [B, 4] to y."""
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [source], [target], [SCALAR, *more])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def ask(data: bytes) -> list[Placed]:
    """Where a real session places a graph whose first provider, Azure's, takes nothing."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(data, settings, providers=["AzureExecutionProvider", CPU])
    found = placed(session)
    assert found is not None
    return found


def test_the_inside_of_a_scan_is_told(tmp_path: Path) -> None:
    bundle, artifact = graphs.write_scan(tmp_path)
    data = bundle.read(artifact)
    nodes = ask(data)
    assert {"ReduceMax", "Scan", "Mul", "Add", "Identity"} <= {node.operator for node in nodes}
    assert {node.provider for node in nodes} == {CPU}


NODES = [
    helper.make_node("Shape", ["x"], ["shape"], name="shape"),
    helper.make_node("Gather", ["shape", "one"], ["side"], name="side"),
    helper.make_node("Mul", ["side", "one"], ["twice"], name="twice"),
    helper.make_node("Cast", ["twice"], ["factor"], name="factor", to=TensorProto.FLOAT),
    helper.make_node("Mul", ["x", "factor"], ["scaled"], name="scaled"),
    helper.make_node("Gather", ["scaled", "one"], ["y"], name="row", axis=1),
]


def test_activations_are_work_and_what_is_made_of_shapes_alone_is_not() -> None:
    data = model(NODES)
    told = {node.name: node for node in ask(data)}
    assert set(told) == {node.name for node in NODES}, "onnxruntime calls the nodes as the file does"
    shapes = [told[name] for name in ("shape", "side", "twice", "factor")]
    assert work_on_cpu(shapes, data) == set()
    assert work_on_cpu([*shapes, told["scaled"]], data) == {"Mul"}
    assert work_on_cpu([*told.values()], data) == {"Gather", "Mul"}


def test_of_the_inside_of_a_scan_too() -> None:
    """The body scales each row by a side of the input's shape, which is computed around it."""
    row, out, carried, kept = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("row", "out", "carried", "kept")
    )
    inner = [
        helper.make_node("Add", ["side", "one"], ["more"], name="of_shapes"),
        helper.make_node("Cast", ["more"], ["by"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["row", "by"], ["out"], name="of_rows"),
        helper.make_node("Identity", ["carried"], ["kept"], name="state"),
    ]
    body = helper.make_graph(inner, "body", [carried, row], [kept, out])
    start = numpy_helper.from_array(np.zeros(4, np.float32), "start")
    scan = helper.make_node("Scan", ["start", "x"], ["last", "y"], name="scan", body=body, num_scan_inputs=1)
    data = model([*NODES[:2], scan], start)
    told = {node.name: node for node in ask(data)}
    assert work_on_cpu([told[name] for name in ("shape", "side", "of_shapes", "cast")], data) == set()
    assert work_on_cpu([told["of_rows"]], data) == {"Mul"}
    assert work_on_cpu([told["scan"], told["state"]], data) == {"Identity", "Scan"}


@pytest.mark.parametrize("operator", ["Conv", "Pad", "ReduceMax", "Round", "Softmax"])
def test_nodes_that_the_file_does_not_name_are_known_by_their_operator(operator: str) -> None:
    data = model(NODES)
    assert work_on_cpu(left(("Div", ""), ("Concat", "made_by_onnxruntime")), data) == set()
    assert work_on_cpu(left(("Div", ""), (operator, "")), data) == {operator}


@given(st.data())
def test_any_graph(data: st.DataObject) -> None:
    """Against another way to tell: back from a node, whether the input is reached without passing a Shape."""
    feeds: dict[str, list[str]] = {"x": [], "one": []}
    nodes, shapes = [], set()
    for index in range(data.draw(st.integers(1, 12))):
        name = f"n{index}"
        operator = data.draw(st.sampled_from(["Shape", "Add", "Mul"]))
        feeds[name] = data.draw(
            st.lists(st.sampled_from([*feeds]), min_size=(n := 1 + (operator != "Shape")), max_size=n)
        )
        nodes.append(helper.make_node(operator, feeds[name], [name], name=name))
        shapes |= {name} if operator == "Shape" else set()

    def reached(name: str) -> bool:
        return name == "x" or (name not in shapes and any(map(reached, feeds[name])))

    file = model([*nodes, helper.make_node("Identity", [nodes[-1].output[0]], ["y"], name="end")])
    for node in nodes:
        expected = {node.op_type} if reached(node.name) else set()
        assert work_on_cpu(left((node.op_type, node.name)), file) == expected


def test_the_operators_are_onnx_s() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert known >= OF_SHAPES
