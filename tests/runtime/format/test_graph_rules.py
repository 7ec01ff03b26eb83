"""Which graphs a bundle may hold: by operator, by the length of loops, by divisors, by the number of nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coda_runtime import ArtifactError
from coda_runtime.format import graph_operators, graph_values
from coda_runtime.format.graph_check import check_graph
from coda_runtime.format.graph_operators import CONTROL, MAX_NODE_RUNS, MAX_NODES, MICROSOFT, ONNX, OPERATORS, OPSETS
from tests.runtime.hostile_graphs import HOSTILE, body, chain, constant, division, loop, model, nested_functions, node

PATH = Path("graph.onnx")
CAST = node("Cast", "latent", "ids", to=6)


def check(made: Any) -> None:
    check_graph(PATH, made.SerializeToString())


def rejected(made: Any, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        check(made)
    assert "do not load it from a source that you do not trust" in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_kills_or_hangs_is_rejected(name: str) -> None:
    make, words = HOSTILE[name]
    rejected(make(), words)


class TestOperators:
    @pytest.mark.parametrize("domain", ["", "ai.onnx", "com.microsoft"])
    def test_of_the_list(self, domain: str) -> None:
        check(model([node("Gelu", "latent", "y", domain=domain), CAST]))

    @pytest.mark.parametrize(
        "operator", ["SequenceEmpty", "StringSplit", "RandomNormal", "NonMaxSuppression", "x" * 999]
    )
    def test_of_onnx_that_are_not_on_it(self, operator: str) -> None:
        rejected(model([node(operator, "latent", "y"), CAST]), "of ONNX is not among the operators .*docs/bundle.md")

    @pytest.mark.parametrize(
        "domain", ["evil.ops", "ai.onnx.contrib", "ai.onnx.ml", "com.microsoft.nchwc", "AI.ONNX", "ai.onnx\0"]
    )
    def test_of_other_domains(self, domain: str) -> None:
        rejected(model([node("Relu", "latent", "y", domain=domain)]), "'Relu' of the domain .* is not among")

    @pytest.mark.parametrize("domain", ["com.microsoft", "", "mine"])
    @pytest.mark.parametrize("operator", ["EPContext", "PythonOp", "TritonOp", "ATen"])
    def test_that_bring_code(self, operator: str, domain: str) -> None:
        made = node(operator, "latent", "ids", domain=domain, ep_cache_context="../engine", embed_mode=0, name="code")
        rejected(model([made]), rf"the node 'code' \({operator}\): '{operator}' of .* is not among")

    @pytest.mark.parametrize("opset", [1, 8, 10, 29, 2**40])
    def test_in_versions_that_nobody_has_looked_at(self, opset: int) -> None:
        rejected(model([CAST], opset=opset), rf"in version {opset} of ONNX; expected 11 to 28")

    def test_in_no_version(self) -> None:
        made = model([CAST])
        del made.opset_import[:]
        rejected(made, "in version 0 of ONNX")

    def test_a_graph_where_none_belongs(self) -> None:
        made = node("Relu", "latent", "y", then_branch=body(CAST))
        rejected(model([made]), "'then_branch' holds a graph, which 'Relu' has not")

    def test_in_a_branch(self) -> None:
        for branch in ("then_branch", "else_branch"):
            graphs = {"then_branch": body(CAST), "else_branch": body(CAST)}
            check(model([node("If", "yes", "ids", **graphs)], [constant("yes", True)]))
            graphs[branch] = body(node("Unique", "latent", "u"))
            rejected(model([node("If", "yes", "ids", **graphs)], [constant("yes", True)]), "'Unique' of ONNX")


class TestDivisions:
    @pytest.mark.parametrize("operator", ["Div", "Mod"])
    @pytest.mark.parametrize("kind", [np.int32, np.int64, np.int8])
    @pytest.mark.parametrize("divisor", [0, -1])
    def test_by_what_ends_the_process(self, operator: str, kind: Any, divisor: int) -> None:
        rejected(division(operator, divisor, kind), "which is 0 or -1")
        check(division(operator, 3, kind))

    def test_numbers_that_are_written_one_by_one(self) -> None:
        nodes = [node("Shape", "latent", "s"), node("Div", "s d", "y"), CAST]
        check(model(nodes, [helper.make_tensor("d", TensorProto.INT64, [2], [2, 3])]))
        rejected(model(nodes, [helper.make_tensor("d", TensorProto.INT64, [2], [2, -1])]), "which is 0 or -1")
        short = helper.make_tensor("d", TensorProto.INT64, [2], [2, 3])
        short.dims[0] = 3
        rejected(model(nodes, [short]), "which is not a constant")

    def test_by_what_is_computed(self) -> None:
        rejected(model([node("Shape", "latent", "s"), node("Div", "s s", "y"), CAST]), "which is not a constant")
        to_int = node("Cast", "latent", "i", to=TensorProto.INT32)
        rejected(model([to_int, node("Mod", "i i", "y"), CAST]), "'i', which is not a constant")
        rejected(model([node("ArgMax", "latent", "i"), node("Div", "i i", "y"), CAST]), "which is not a constant")

    def test_of_floating_point_numbers(self) -> None:
        check(model([node("Div", "latent latent", "y"), CAST]))
        made = [node("Shape", "latent", "s"), node("Cast", "s", "f", to=TensorProto.FLOAT16)]
        check(model([*made, node("Transpose", "f", "t"), node("Sqrt", "s", "r"), node("Div", "t r", "y"), CAST]))

    def test_in_a_loop_whose_input_says_that_it_is_floating_point(self) -> None:
        step = body(
            node("Div", "x x", "y"),
            inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            outputs=[helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        )
        made = node("Scan", "table", "y", body=step, num_scan_inputs=1)
        rejected(model([made, CAST], [constant("table", np.ones((2, 4), np.int32))]), "which is not a constant")

    def test_that_a_name_means_two_things(self) -> None:
        made = division("Mod", 3)
        made.graph.initializer.append(constant("divisor", np.int32(-1)))
        rejected(made, "defines the value 'divisor' twice")

    def test_that_a_name_means_another_thing_in_a_branch(self) -> None:
        """Its nodes need not stand in their order, where a library sorts them."""
        steps = [node("Mod", "i three", "y"), node("Cast", "latent", "three", to=7)]
        branches = {"then_branch": body(*steps), "else_branch": body(CAST)}
        nodes = [node("Cast", "latent", "i", to=7), node("If", "yes", "z", **branches), CAST]
        rejected(
            model(nodes, [constant("three", np.int64(3)), constant("yes", True)]), "defines the value 'three' twice"
        )


def test_sizes_that_divide_are_positive() -> None:
    weight = constant("weight", np.ones((4, 4, 1, 1), np.float32))
    for attributes in ({"group": 0}, {"group": -1}, {"strides": [1, 0]}, {"dilations": [0, 1]}, {"group": 2**31}):
        rejected(
            model([node("Conv", "latent weight", "y", **attributes), CAST], [weight]),
            "; expected (numbers from 1 on|at most 2147483647)",
        )
    check(model([node("Conv", "latent weight", "y", group=1, strides=[2, 2], pads=[0] * 4), CAST], [weight]))
    check(model([node("Constant", "", "c", value_int=2**62), CAST]))


class TestHeads:
    """Heads are what the channels of an Attention are divided into."""

    @staticmethod
    def attention(shape: list[int], perm: list[int] | None = None, **attributes: Any) -> Any:
        nodes = [
            node("Reshape", "latent shape", "cut"),
            node("Transpose", "cut", "q", perm=perm or [0, 2, 1, 3]),
            node("Attention", "q q q", "y", **attributes),
            CAST,
        ]
        return model(nodes, [constant("shape", np.int64(shape))], opset=23)

    def test_that_constants_tell(self) -> None:
        check(self.attention([-1, 16, 1, 4]))
        check(self.attention([0, 16, 2, -1]))
        check(self.attention([-1, 16, 4], [0, 1, 2], q_num_heads=1, kv_num_heads=1))

    def test_that_may_be_none(self) -> None:
        for heads in (0, -1):
            made = self.attention([0, 16, heads, 4], q_num_heads=1, kv_num_heads=1)
            rejected(made, "how many heads 'q' has is not a constant from 1 on")
        made = self.attention([-1, 16, 4], [0, 1, 2], q_num_heads=0)
        rejected(made, r"its q_num_heads is \[0\]; expected numbers from 1 on")

    def test_of_what_is_computed(self) -> None:
        made = self.attention([-1, 16, 1, 4])
        made.graph.node[2].input[1] = "latent"
        rejected(made, "how many heads 'latent' has")


class TestLoops:
    def test_of_a_constant_length(self) -> None:
        check(loop(1000))
        check(loop(-5))
        check(loop(MAX_NODE_RUNS - 2))
        rejected(loop(MAX_NODE_RUNS), rf"with it {MAX_NODE_RUNS + 1} nodes run at a time")

    @pytest.mark.parametrize("trips", [np.float32(3), np.int64([1, 2]), np.zeros(0, np.int64)])
    def test_of_a_length_that_is_no_number(self, trips: Any) -> None:
        rejected(loop(trips), "how often it runs is not a constant")

    def test_within_each_other(self) -> None:
        inner = loop(2000).graph.node[0]
        inner.input[0] = "trips"
        inner.name = "inner"
        outer = loop(2000, inner=body(inner))
        rejected(outer, r"the node 'long' \(Loop\): with it 4002\d{3} nodes run")

    def test_of_a_length_that_is_computed(self) -> None:
        made = loop(3)
        made.graph.node.insert(0, node("Size", "latent", "n"))
        made.graph.node[1].input[0] = "n"
        rejected(made, "how often it runs is not a constant")

    @staticmethod
    def scan(*before: Any, walked: str = "table", length: int = 8, **attributes: Any) -> Any:
        step = body(
            node("Identity", "row", "out"),
            inputs=[helper.make_tensor_value_info("row", TensorProto.FLOAT, None)],
            outputs=[helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        )
        made = node("Scan", walked, "y", body=step, **{"num_scan_inputs": 1} | attributes)
        table = constant("table", np.ones((length, 2), np.float32))
        return model([*before, made, CAST], [table, constant("shape", np.int64([-1, 2, 1]))])

    def test_over_a_table(self) -> None:
        check(self.scan())
        check(self.scan(length=0))
        check(self.scan(node("Reshape", "table shape", "cut"), walked="cut"))
        check(self.scan(node("Identity", "table", "same"), walked="same", scan_input_axes=[1]))

    def test_over_what_is_computed(self) -> None:
        for made in (
            self.scan(walked="latent"),
            self.scan(node("Abs", "table", "made"), walked="made"),
            self.scan(walked="table latent", num_scan_inputs=2),
            self.scan(node("Reshape", "latent shape", "cut"), walked="cut"),
            self.scan(num_scan_inputs=0),
            self.scan(num_scan_inputs=2),
            self.scan(scan_input_axes=[2]),
            self.scan(node("Reshape", "table latent", "cut"), walked="cut"),
        ):
            rejected(made, "how often it runs is not a constant; expected to walk constants, or these reshaped")

    def test_over_nothing_that_is_long(self) -> None:
        """A tensor of no numbers at all may have 2^40 rows."""
        made = self.scan()
        made.graph.initializer[0].CopyFrom(constant("table", np.ones((2**40, 0), np.float32)))
        rejected(made, r"with it over 10\^9 nodes run")


class TestFunctions:
    def test_of_the_file_s_own(self) -> None:
        check(nested_functions(6, 3))
        rejected(nested_functions(6, 4), "has 4097 nodes, with its functions; expected at most 4096")

    def test_that_are_nowhere(self) -> None:
        made = nested_functions(1)
        made.graph.node.append(node("G", "latent", "z", domain="mine"))
        rejected(made, "'G' of the domain 'mine' is not among")

    def test_that_call_themselves(self) -> None:
        made = nested_functions(1)
        made.functions[0].node[0].CopyFrom(node("F1", "x", "y", domain="mine"))
        rejected(made, "functions call each other more than 8 deep")

    def test_that_call_each_other_in_a_long_row(self) -> None:
        made = nested_functions(9)
        for function in made.functions[1:]:
            del function.node[1:]
            function.node[0].output[0] = "y"
        check(nested_functions(7, 2))
        rejected(made, "functions call each other more than 8 deep")

    def test_that_call_each_other_from_deep_within_graphs(self) -> None:
        """The check calls itself for each: as deep as a file may be, it stays far from Python's limit."""
        made = nested_functions(7, 1)
        for level, function in enumerate(made.functions[1:], 1):
            step = function.node[0]
            for depth in range(20):
                branch = body(step)
                step = node("If", "x", "y" if depth == 19 else f"y{level}_{depth}", then_branch=branch)
            function.node[0].CopyFrom(step)
        for function in made.functions[1:]:
            inner = function.node[0]
            while inner.op_type == "If":
                inner = inner.attribute[0].g.node[0]
            inner.output[0] = "deep"
        check(made)

    def test_that_are_defined_twice_or_in_the_place_of_an_operator(self) -> None:
        made = nested_functions(1)
        made.functions.append(made.functions[0])
        with pytest.raises(ArtifactError, match="the function 'F0' appears twice"):
            check(made)
        made = nested_functions(1)
        made.functions[0].domain = "ai.onnx"
        rejected(made, "defines 'F0' anew")
        made = nested_functions(1)
        made.functions[0].overload = "other"
        rejected(made, "defines 'F0' in the variant 'other'")

    def test_what_holds_in_a_graph_holds_in_them(self) -> None:
        made = nested_functions(1)
        made.functions[0].node[0].CopyFrom(node("Div", "x x", "y"))
        rejected(made, "which is not a constant")
        made.functions[0].node[0].CopyFrom(node("Conv", "x x", "y", group=1))
        made.functions[0].node[0].attribute[0].ref_attr_name = "given"
        rejected(made, "its group is given by a function's caller")

    def test_what_their_callers_give_is_not_known(self) -> None:
        made = nested_functions(1)
        three = node("Constant", "", "three", value=constant("", np.int64(3)))
        made.functions[0].node.insert(0, three)
        made.functions[0].node[1].CopyFrom(node("Div", "x three", "y"))
        check(made)
        made.functions[0].node[0].attribute[0].ref_attr_name = "given"
        rejected(made, "'three', which is not a constant")
        made.functions[0].node[1].CopyFrom(TestLoops.scan().graph.node[0])
        made.functions[0].node[1].attribute[1].ref_attr_name = "given"
        rejected(made, "its 'num_scan_inputs' is given by a function's caller")


def test_the_number_of_nodes() -> None:
    check(chain(MAX_NODES - 1))
    rejected(chain(MAX_NODES), f"has more than {MAX_NODES} nodes")


def test_only_tensors_come_in_and_go_out() -> None:
    for info in (
        helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, None),
        helper.make_value_info("more", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, []))),
        helper.make_value_info("more", helper.make_sparse_tensor_type_proto(1, [])),
    ):
        rejected(model([CAST], inputs=[info]), "takes or returns 'more', which is no tensor")


SCHEMAS = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]


@pytest.fixture(params=sorted(OPERATORS[ONNX]))
def schemas(request: pytest.FixtureRequest) -> list[Any]:
    """An operator of the list, in each of its versions that a graph may ask for."""
    return _schemas(request.param)


def _schemas(operator: bytes) -> list[Any]:
    versions = [schema for schema in SCHEMAS if schema.name == operator.decode()]
    return [schema for schema in versions if not schema.deprecated and schema.since_version < OPSETS[ONNX].stop]


def test_operators_of_the_list_are_onnx_s_and_hold_no_graphs_but_those_that_are_known(schemas: list[Any]) -> None:
    assert schemas
    graphs = {
        name
        for schema in schemas
        for name, attribute in schema.attributes.items()
        if attribute.type in (onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS)
    }
    assert graphs == {name.decode() for name in CONTROL.get(schemas[0].name.encode(), ())}


@pytest.mark.parametrize("operator", sorted(graph_values._RETURNS_FLOATS | graph_values._RETURNS_ITS_INPUT))
def test_what_is_said_of_an_operator_s_result_is_true(operator: bytes) -> None:
    for schema in _schemas(operator):
        first, out = schema.inputs[0].type_str, schema.outputs[0].type_str
        if operator in graph_values._RETURNS_ITS_INPUT:
            assert first == out
            continue
        kinds = next((t.allowed_type_strs for t in schema.type_constraints if t.type_param_str == out), [out])
        assert all(kind.startswith(("tensor(float", "tensor(double", "tensor(bfloat")) for kind in kinds), kinds


def test_the_list_is_drawn_up_for_versions_that_exist() -> None:
    assert OPSETS[ONNX].stop - 1 <= onnx.defs.onnx_opset_version()
    assert OPERATORS[ONNX] >= graph_operators.DIVISIONS | CONTROL.keys()


def test_the_page_has_the_list() -> None:
    page = Path(__file__).parents[3] / "docs" / "bundle.md"
    if not page.exists():
        pytest.skip("the pages are not here")
    _, onnx_s, _, microsoft_s, rest = page.read_text(encoding="utf-8").partition("## Operators")[2].split("\n\n")[1:6]
    for told, domain in ((onnx_s, ONNX), (microsoft_s, MICROSOFT)):
        assert set(told.rstrip(".").replace(",", " ").split()) == {name.decode() for name in OPERATORS[domain]}
    assert f"at most {MAX_NODES}" in " ".join(rest.split())


@pytest.mark.parametrize(
    "operator", ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"]
)
def test_operators_of_int8_are_on_the_list(operator: str) -> None:
    assert operator.encode() in OPERATORS[ONNX]
    assert {b"QuantizeLinear", b"DequantizeLinear"} <= OPERATORS[MICROSOFT]


def test_a_graph_of_many_constants_is_judged_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are looked at up to a bound, however large a divisor is."""
    asked: list[Callable[..., Any]] = []
    monkeypatch.setattr(np, "isin", lambda *arguments: asked.append(arguments[0]))
    big = constant("big", np.full(2**18 + 1, 3, np.int64))
    nodes = [node("Cast", "latent", "i", to=7), node("Mod", "i big", "y"), CAST]
    rejected(model(nodes, [big]), "which is not a constant")
    assert asked == []
