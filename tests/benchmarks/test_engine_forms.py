"""benchmarks.bench_engine_forms: its forms compute the same, and it reads what TensorRT-RTX's builder writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.bench_engine_forms import measure
from benchmarks.engine_log import layers_of
from benchmarks.graph_forms import as_instance, as_layer, without_casts
from coda_runtime import BuildError
from coda_runtime.backends.tensorrt.inspection import check_precision
from coda_runtime.backends.tensorrt.library import find_library
from coda_runtime.build.builder import build_engine
from coda_runtime.build.options import BuildOptions

CHANNELS = 64


def graph(low: int = TensorProto.FLOAT, *, moved: bool = False) -> onnx.ModelProto:
    """A convolution in a type, a GroupNormalization in float32 between casts, and a SiLU in that type."""
    draw = np.random.default_rng(0).standard_normal
    given = {
        "weight": draw((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 24,
        "scale": draw(CHANNELS).astype(np.float32),
        "bias": draw(CHANNELS).astype(np.float32),
    }
    node = helper.make_node
    nodes = [node("Cast", ["x"], ["x.low"], to=low), node("Cast", ["weight"], ["weight.low"], to=low)]
    nodes += [node("Conv", ["x.low", "weight.low"], ["c"], pads=[1, 1, 1, 1])]
    nodes += [node("Cast", ["c"], ["c.high"], to=TensorProto.FLOAT)]
    if moved:
        nodes += [node("Transpose", ["c.high"], ["c.moved"], perm=[0, 1, 3, 2])]
    source = "c.moved" if moved else "c.high"
    nodes += [node("GroupNormalization", [source, "scale", "bias"], ["n"], num_groups=8, epsilon=1e-6)]
    nodes += [node("Cast", ["n"], ["n.low"], to=low), node("Sigmoid", ["n.low"], ["s"])]
    nodes += [node("Mul", ["n.low", "s"], ["silu"]), node("Cast", ["silu"], ["y"], to=TensorProto.FLOAT)]
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CHANNELS, 16, 16]) for name in "xy"]
    weights = [numpy_helper.from_array(value, name) for name, value in given.items()]
    made = helper.make_graph(nodes, "made", tensor[:1], tensor[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    onnx.checker.check_model(model, full_check=True)  # infers every type
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    ("form", "operator"), [(as_instance, "InstanceNormalization"), (as_layer, "LayerNormalization")]
)
def test_another_normalisation_computes_the_same(
    form: Callable[[onnx.ModelProto], onnx.ModelProto], operator: str
) -> None:
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, 16, 16)).astype(np.float32)
    before, after = graph(), form(graph())
    assert kinds(after)[operator] == 1
    assert "GroupNormalization" not in kinds(after)
    run = [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for one in (before, after)
    ]
    np.testing.assert_allclose(run[0], run[1], atol=2e-5)


@pytest.mark.parametrize("moved", [False, True], ids=["cast beside it", "transposed between"])
def test_casts_around_an_operator_are_dropped(moved: bool) -> None:
    before, after = graph(TensorProto.BFLOAT16, moved=moved), graph(TensorProto.BFLOAT16, moved=moved)
    after = without_casts(after, "GroupNormalization")
    # Those two go, and scale and bias get one each.
    assert (kinds(before)["Cast"], kinds(after)["Cast"]) == (5, 5)
    (norm,) = (node for node in after.graph.node if node.op_type == "GroupNormalization")
    inferred = onnx.shape_inference.infer_shapes(after)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert {types[name] for name in norm.input} == {TensorProto.BFLOAT16}
    assert {node.op_type for node in after.graph.node if norm.output[0] in node.input} == {"Sigmoid", "Mul"}
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, 16, 16)).astype(np.float32)
    run = [ReferenceEvaluator(one).run(None, {"x": x})[0] for one in (before, after)]
    np.testing.assert_allclose(run[0], run[1], atol=0.1)


def test_casts_that_somebody_else_needs_stay() -> None:
    before = graph(TensorProto.BFLOAT16)
    del before.graph.output[:]
    before.graph.output.append(helper.make_tensor_value_info("n2", TensorProto.FLOAT, ["batch", CHANNELS, 16, 16]))
    before.graph.node.append(helper.make_node("Identity", ["n"], ["n2"]))
    assert without_casts(before, "GroupNormalization").graph == before.graph
    assert without_casts(graph(), "GroupNormalization").graph == graph().graph, "nothing is lower"


def test_the_layers_of_a_real_engine(tmp_path: Path) -> None:
    """In the library's own words, as its inspector tells them too where there is a GPU."""
    pytest.importorskip("tensorrt_rtx_bindings")
    file, messages = tmp_path / "graph.onnx", list[str]()
    for low, precision, other in ((TensorProto.BFLOAT16, "bf16", "fp16"), (TensorProto.FLOAT16, "fp16", "bf16")):
        messages.clear()
        onnx.save(graph(low), file)
        options = BuildOptions((1, 2, 4), ("sm89",))
        build_engine(find_library("tensorrt-rtx"), file, options, precision=precision, listen=messages.append)
        layers = layers_of("\n".join(messages))
        assert {layer.kind for layer in layers} & {"correlation", "runtime_fusion"}
        told = json.dumps({"Layers": [layer.to_json() for layer in layers]})
        check_precision(told, precision)
        with pytest.raises(BuildError, match=f"the engine is to compute in {other}"):
            check_precision(told, other)


def test_what_is_counted() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    found = measure(graph().SerializeToString(), "fp32", "sm89", (1, 2, 4))
    assert found["kernels"] >= 2
    assert sum(found["convolutions"].values()) == 1
    assert found["engine_bytes"] > 4 * CHANNELS * CHANNELS * 9
    assert found["scratch_bytes"] > 0
    assert "error" in measure(b"", "fp32", "sm89", (1, 2, 4))


def test_a_log_without_layers() -> None:
    with pytest.raises(ValueError, match="has no layers"):
        layers_of("Total Activation Memory: 12 bytes")
