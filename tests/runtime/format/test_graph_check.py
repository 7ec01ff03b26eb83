from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from coda_runtime import ArtifactError
from coda_runtime.format.graph_check import check_graph
from tests.runtime import tiny
from tests.runtime.graphs import set_external

# One folder for all examples of a test: each writes its file anew.
REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
EXTERNAL = "keeps weights in another file"


def _tensor(external: str | None = None) -> Any:
    tensor = numpy_helper.from_array(np.float32([1, 2]), "w")
    if external is not None:
        set_external(tensor, external)
    return tensor


def _model(*nodes: Any, constants: Any = (), **more: Any) -> Any:
    graph = helper.make_graph(list(nodes), "g", [], [], list(constants))
    return helper.make_model(graph, **more)


def _check(model: Any, folder: Path, name: str = "g.onnx") -> None:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    check_graph(path)


def _constant(**attributes: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], **attributes)


def _sparse(tensor: Any) -> Any:
    indices = numpy_helper.from_array(np.int64([0, 1]), "i")
    return helper.make_sparse_tensor(tensor, indices, [4])


def _in_function(tensor: Any) -> Any:
    opset = [helper.make_opsetid("", 20)]
    function = helper.make_function("mine", "F", [], ["c"], [_constant(value=tensor)], opset)
    return _model(helper.make_node("F", [], ["c"], domain="mine"), functions=[function])


def _in_training(tensor: Any) -> Any:
    model = _model()
    model.training_info.add().algorithm.CopyFrom(_model(constants=[tensor]).graph)
    return model


def _nested(tensor: Any, depth: int) -> Any:
    graph = helper.make_graph([], "inner", [], [], [tensor])
    for level in range(depth):
        graph = helper.make_graph([helper.make_node("If", ["x"], [f"y{level}"], then_branch=graph)], "g", [], [])
    return helper.make_model(graph)


POSITIONS: dict[str, Callable[[Any], Any]] = {
    "initializer": lambda tensor: _model(constants=[tensor]),
    "sparse initializer": lambda tensor: _sparse_model(tensor),
    "attribute": lambda tensor: _model(_constant(value=tensor)),
    "list of an attribute": lambda tensor: _model(helper.make_node("Relu", ["x"], ["y"], tensors=[_tensor(), tensor])),
    "sparse attribute": lambda tensor: _model(_constant(sparse_value=_sparse(tensor))),
    "subgraph": lambda tensor: _nested(tensor, 3),
    "function": _in_function,
    "training": _in_training,
}


def _sparse_model(tensor: Any) -> Any:
    model = _model()
    model.graph.sparse_initializer.append(_sparse(tensor))
    return model


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin", ""])
def test_weights_in_another_file_are_rejected_wherever_they_stand(tmp_path: Path, position: str, location: str) -> None:
    _check(POSITIONS[position](_tensor()), tmp_path)
    with pytest.raises(ArtifactError, match=EXTERNAL):
        _check(POSITIONS[position](_tensor(location)), tmp_path)


def test_weights_in_another_file_are_rejected_where_no_graph_may_stand(tmp_path: Path) -> None:
    for tensor, words in ((_tensor(), "holds a graph, which 'Relu' has not"), (_tensor("../x"), EXTERNAL)):
        node = helper.make_node("Relu", ["x"], ["y"], graphs=[_model(constants=[tensor]).graph])
        with pytest.raises(ArtifactError, match=words):
            _check(_model(node), tmp_path)


def test_each_half_of_an_external_tensor_is_rejected(tmp_path: Path) -> None:
    only_named, only_marked = _tensor("x"), _tensor("x")
    only_named.ClearField("data_location")
    del only_marked.external_data[:]
    for tensor in (only_named, only_marked):
        with pytest.raises(ArtifactError, match=EXTERNAL):
            _check(_model(constants=[tensor]), tmp_path)
    inside = _tensor()
    inside.data_location = TensorProto.DEFAULT
    _check(_model(constants=[inside]), tmp_path)


def _field(number: int, wire: int, value: bytes) -> bytes:
    tag, out = number << 3 | wire, b""
    while tag > 0x7F:
        tag, out = tag >> 7, out + bytes([tag & 0x7F | 0x80])
    return out + bytes([tag]) + value


def _nest(*path: int, value: bytes) -> bytes:
    for number in reversed(path):
        size, length = len(value), b""
        while size > 0x7F:
            size, length = size >> 7, length + bytes([size & 0x7F | 0x80])
        value = _field(number, 2, length + bytes([size]) + value)
    return value


LOCATION_IN_GRAPH = (7, 5)  # ModelProto.graph, GraphProto.initializer


@pytest.mark.parametrize("number", [b"\x01", b"\x81\x00", b"\x81\x80\x80\x80\x10", b"\x02", b"\xff" * 9 + b"\x01"])
def test_a_location_is_external_however_the_number_is_written(tmp_path: Path, number: bytes) -> None:
    with pytest.raises(ArtifactError, match=EXTERNAL):
        _check(_nest(*LOCATION_IN_GRAPH, value=_field(14, 0, number)), tmp_path)
    _check(_nest(*LOCATION_IN_GRAPH, value=_field(14, 0, b"\x80\x80\x00")), tmp_path)


def test_a_graph_that_is_written_in_two_is_rejected(tmp_path: Path) -> None:
    """Protobuf makes one of both, and another reader might take one of them."""
    parts = [_nest(7, value=b""), _nest(*LOCATION_IN_GRAPH, value=_field(14, 0, b"\x01"))]
    model = onnx.ModelProto.FromString(b"".join(parts))
    assert external_data_helper.uses_external_data(model.graph.initializer[0])
    for data in (b"".join(parts), b"".join(reversed(parts))):
        with pytest.raises(ArtifactError, match="field 7 appears twice"):
            _check(data, tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\x08\x0a", "it holds no graph"),
        (b"PK\x03\x04" + b"\x00" * 60, "is not an ONNX model"),
        (b"not a model at all", "is not an ONNX model"),
        (_field(7, 2, b"\x7f\x00"), "a length in it is wrong"),
        (_field(7, 2, b"\xff\xff\xff\xff\xff\x01"), "a number in it is too long"),
        (_field(7, 0, b"\x01"), "field 7 has wire type 0"),
        (_field(7, 3, b""), "wire type 3, which ONNX does not use"),
        (b"\x00\x00", "a field has the number 0"),
        (b"\x80\x80\x80\x80\x80\x01", "too long"),
        (b"\xba\x80\x80\x80\x7f\x00", "a field has the number"),
        (_nest(7, 1, value=_field(4, 2, b"\x01A") * 2), "appears twice"),
        (_nest(*LOCATION_IN_GRAPH, value=_field(14, 2, b"\x00")), "field 14 has wire type 2"),
        (_nest(*LOCATION_IN_GRAPH, value=_field(13, 0, b"\x00")), "field 13 has wire type 0"),
    ],
)
def test_what_is_no_model_is_rejected(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        _check(data, tmp_path)
    assert "again" in str(caught.value)


def test_graphs_that_lie_too_deep_are_rejected_without_recursion(tmp_path: Path) -> None:
    _check(_nested(_tensor(), 10), tmp_path)
    deep = _nest(*(7, 1, 5), *((6, 1, 5) * 5000), value=b"")
    with pytest.raises(ArtifactError, match="nested more than 64 deep"):
        _check(deep, tmp_path)


def test_the_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coda_runtime.format.graph_model._MAX_FIELDS", 1000)
    with pytest.raises(ArtifactError, match="more than 1000 fields"):
        _check(_nest(7, value=_field(10, 2, b"\x00") * 1000), tmp_path)


def test_onnxruntime_s_own_format_is_rejected_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="onnxruntime's own format"):
        _check(_model(), tmp_path, "g.ORT")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        check_graph(tmp_path / "none.onnx")


@settings(REUSED, max_examples=40)
@given(data=st.data(), name=st.sampled_from(tiny.FILES[:3]))
def test_damaged_graphs_raise_nothing_else(sealed: Path, tmp_path: Path, data: st.DataObject, name: str) -> None:
    whole = bytearray((sealed / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut]), bytes(whole[cut:])):
        try:
            _check(damaged, tmp_path)
        except ArtifactError:
            continue
        try:
            model = onnx.ModelProto.FromString(damaged)
        except DecodeError:  # in what is jumped over here, a name that is no UTF-8 say
            continue
        assert not any(map(external_data_helper.uses_external_data, external_data_helper._get_all_tensors(model)))


TENSORS = st.sampled_from([None, None, None, "x", "../x"]).map(_tensor)


NUMBERS = itertools.count()


def _unique(constants: list[Any]) -> list[Any]:
    """Name constants apart, in all graphs: ONNX asks for it."""
    copies = []
    for tensor in constants:
        copies.append(TensorProto.FromString(tensor.SerializeToString()))
        copies[-1].name = f"w{next(NUMBERS)}"
    return copies


def _leaf(constants: list[Any]) -> Any:
    return helper.make_graph([], "leaf", [], [], _unique(constants))


def _graphs(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def make(constants: list[Any], attributes: list[Any], graphs: list[Any]) -> Any:
        nodes = [helper.make_node("Constant", [], [f"c{next(NUMBERS)}"], value=tensor) for tensor in attributes]
        nodes += [helper.make_node("If", ["x"], [f"y{next(NUMBERS)}"], then_branch=graph) for graph in graphs]
        return helper.make_graph(nodes, "g", [], [], _unique(constants))

    return st.builds(make, st.lists(TENSORS, max_size=2), st.lists(TENSORS, max_size=2), st.lists(inner, max_size=2))


@settings(REUSED, max_examples=60)
@given(st.recursive(st.builds(_leaf, st.lists(TENSORS, max_size=2)), _graphs, max_leaves=6))
def test_it_agrees_with_onnx(tmp_path: Path, graph: Any) -> None:
    model = helper.make_model(graph)
    tensors = list(external_data_helper._get_all_tensors(model))
    if any(map(external_data_helper.uses_external_data, tensors)):
        with pytest.raises(ArtifactError, match=EXTERNAL):
            _check(model, tmp_path)
    else:
        _check(model, tmp_path)
