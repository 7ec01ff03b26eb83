"""One order of additions for every processor: see docs/portability.md for what was measured."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import coda_runtime
from coda_runtime import BackendError
from coda_runtime.backends.onnxruntime import backend, reproducible
from coda_runtime.machine.processors import has_avx2
from tests.runtime import tiny
from tests.runtime.backends.onnxruntime import graphs

needs_avx2 = pytest.mark.skipif(not has_avx2(), reason=f"{platform.machine()} without AVX2: see the refusal below")


@needs_avx2
def test_convolutions_stay_as_they_are(tmp_path: Path) -> None:
    """In blocks as wide as the processor's registers they would be summed in another order on each."""
    bundle, artifact = graphs.write_convolutions(tmp_path, "fp32")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(bundle.path(artifact)), settings, providers=["CPUExecutionProvider"])
    images = graphs.images(7)
    expected = plain.run(None, {plain.get_inputs()[0].name: images})[0]
    for threads in (None, 1, 3, 9):
        options = coda_runtime.LoadOptions(threads=threads, reproducible=True)
        session = backend.OnnxRuntimeBackend().load(bundle, artifact, options)
        for count in (1, 2, 7):
            np.testing.assert_array_equal(session.run(images[:count]), expected[:count])
        session.close()


@needs_avx2
def test_a_tokenizer_runs_so_in_every_part(sealed: Path) -> None:
    with coda_runtime.load(sealed, reproducible=True) as tok, coda_runtime.load(sealed) as usual:
        assert {(part.backend, part.device) for part in tok.artifacts} == {("onnxruntime", "cpu")}
        images = tiny.photos(3)
        np.testing.assert_array_equal(tok.encode(images), usual.encode(images))


@pytest.mark.parametrize("axis", [None, -1, 1, 0])
def test_softmax_becomes_what_it_is_made_of(axis: int | None) -> None:
    """In the graph; all else stays, its bytes too."""
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"], name="attention", **attributes),
        helper.make_node("Softmax", ["b"], ["y"], **attributes),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["B", 40, 50])],
        [value("y", TensorProto.FLOAT, ["B", 40, 50])],
        [helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    data = reproducible.without_softmax(model.SerializeToString())
    rewritten = onnx.load_from_string(data)
    onnx.checker.check_model(rewritten, full_check=True)
    made_of = ["Constant", "ReduceMax", "Sub", "Exp", "ReduceSum", "Div"]
    assert [node.op_type for node in rewritten.graph.node] == ["Mul", *made_of, *made_of]
    x = np.random.default_rng(1).normal(size=(3, 40, 50)).astype(np.float32)
    found, expected = (
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for each in (data, model.SerializeToString())
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert reproducible.without_softmax(data) == data


@pytest.mark.parametrize("data", [b"", b"no model", b"\x3a\x05\x0a\x09", b"\x3a\x0b\x0a\x09\x22\x07Softmax"])
def test_what_is_no_model_stays_as_it_is(data: bytes) -> None:
    assert reproducible.without_softmax(data) == data


def test_other_processors_are_refused(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproducible, "has_avx2", lambda: False)
    with pytest.raises(BackendError, match=r"need an x86-64 processor with AVX2 and FMA.*or leave out reproducible"):
        coda_runtime.load(sealed, reproducible=True)


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    bundle, artifact = graphs.write_convolutions(tmp_path, "fp16")
    options = coda_runtime.LoadOptions(reproducible=True)
    problem = backend.OnnxRuntimeBackend().check(bundle, artifact, options)
    assert "is in fp16" in str(problem)
