"""The graph builder stores what is equal once, and names what it makes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from coda_export.graphs.builder import GraphBuilder
from tests.export import onnx_tools


def test_equal_constants_share_one_initializer() -> None:
    graph = GraphBuilder()
    assert graph.constant([1, 2]) == graph.constant(np.array([1, 2]))
    assert len(graph.initializers) == 1
    # The same bytes of another type or shape are something else.
    graph.constant(np.array([1, 2], np.uint64))
    graph.constant(np.array([[1, 2]]))
    assert len(graph.initializers) == 3


def test_scalars_and_slices_keep_their_shape() -> None:
    graph = GraphBuilder()
    for array in (np.array(3.0, np.float32), np.arange(12).reshape(3, 4).T[::2]):
        stored = onnx.numpy_helper.to_array(graph.initializers[graph.constant(array)])
        np.testing.assert_array_equal(stored, array)
        assert stored.shape == array.shape


def test_a_model_runs() -> None:
    graph = GraphBuilder()
    doubled = graph.node("Mul", "x", graph.constant(np.array(2, np.float32)))
    graph.node("Identity", graph.reshape(doubled, -1), name="y")
    model = graph.model("twice", [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, [None])], 20)
    np.testing.assert_array_equal(onnx_tools.run(model, np.float32([[1, 2], [3, 4]])), [2, 4, 6, 8])


def test_a_broken_model_is_rejected() -> None:
    graph = GraphBuilder()
    graph.node("Identity", "nowhere", name="y")
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        graph.model("broken", [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])], 20)
