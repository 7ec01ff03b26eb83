"""ONNX models that would kill or hang the process which runs them, or return what is no array. Each is valid ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.runtime import tiny

LATENT = helper.make_tensor_value_info("latent", *tiny.LATENT)
IDS = helper.make_tensor_value_info("ids", *tiny.IDS)


def constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


def model(
    nodes: list[Any], constants: Any = (), *, functions: Any = (), output: Any = IDS, opset: int = 20, inputs: Any = ()
) -> Any:
    """A quantizer of these nodes, from `latent` to `ids`."""
    graph = helper.make_graph(nodes, "g", [LATENT, *inputs], [output], list(constants))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(" ") if inputs else [], outputs.split(), **attributes)


def body(*nodes: Any, inputs: Any = (), outputs: Any = ()) -> Any:
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs))


def division(operator: str = "Mod", divisor: int = -1, kind: Any = np.int32) -> Any:
    """The least integer by -1: the processor answers with SIGFPE."""
    least = np.full((1, tiny.TOKENS), np.iinfo(kind).min, kind)
    nodes = [node(operator, "least divisor", "quotient", name="kill"), node("Cast", "quotient", "ids", to=6)]
    return model(nodes, [constant("least", least), constant("divisor", kind(divisor))])


def _loop_body() -> Any:
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    return body(
        node("Identity", "go", "on"),
        inputs=[count, going],
        outputs=[helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )


def endless_loop() -> Any:
    nodes = [node("Loop", " yes", "", body=_loop_body(), name="for_ever"), node("Cast", "latent", "ids", to=6)]
    return model(nodes, [constant("yes", True)])


def loop(trips: Any, *, inner: Any = None) -> Any:
    nodes = [node("Loop", "trips ", "", body=inner or _loop_body(), name="long"), node("Cast", "latent", "ids", to=6)]
    return model(nodes, [constant("trips", trips)])


def nested_functions(levels: int = 30, calls: int = 2) -> Any:
    """Each function calls the one below several times: calls^levels nodes, once they are written out."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    made = [helper.make_function("mine", "F0", ["x"], ["y"], [node("Neg", "x", "y")], opsets)]
    for level in range(1, levels + 1):
        names = ["x", *(f"a{call}" for call in range(1, calls)), "y"]
        steps = [node(f"F{level - 1}", *names[call : call + 2], domain="mine") for call in range(calls)]
        made.append(helper.make_function("mine", f"F{level}", ["x"], ["y"], steps, opsets))
    nodes = [node(f"F{levels}", "latent", "far", domain="mine", name="top"), node("Cast", "far", "ids", to=6)]
    return model(nodes, functions=made)


def chain(length: int = 60_000) -> Any:
    nodes = [node("Add", f"a{i} latent" if i else "latent latent", f"a{i + 1}") for i in range(length)]
    return model([*nodes, node("Cast", f"a{length}", "ids", to=6)])


def ragged_sequence() -> Any:
    nodes = [
        node("Shape", "latent", "s"),
        node("Cast", "s", "a", to=1),
        node("SequenceConstruct", "latent a", "ids", name="ragged"),
    ]
    return model(nodes, output=helper.make_tensor_sequence_value_info("ids", TensorProto.FLOAT, None))


def group_of_none() -> Any:
    """Channels are divided by the number of groups."""
    nodes = [node("Conv", "latent weight", "y", group=0, name="none"), node("Cast", "y", "ids", to=6)]
    return model(nodes, [constant("weight", np.ones((4, 4, 1, 1), np.float32))])


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "Mod of the least integer by -1": (division, r"the node 'kill' \(Mod\): it divides by 'divisor', which is 0 or -1"),
    "Div of the least integer by -1": (lambda: division("Div"), r"the node 'kill' \(Div\): it divides by 'divisor'"),
    "Loop without an end": (endless_loop, r"the node 'for_ever' \(Loop\): how often it runs is not a constant"),
    "Loop of 2^40 rounds": (lambda: loop(2**40), r"the node 'long' \(Loop\): with it over 10\^9 nodes run"),
    "functions that call each other": (nested_functions, "functions call each other more than 8 deep"),
    "functions that are called often": (
        lambda: nested_functions(7, 8),
        r"has a node F6 that makes 'a4': with it 1048576 nodes run",
    ),
    "a chain of 60,000 nodes": (chain, "has more than 4096 nodes"),
    "a ragged sequence": (
        ragged_sequence,
        r"the node 'ragged' \(SequenceConstruct\): 'SequenceConstruct' of ONNX is not",
    ),
    "a convolution of no groups": (group_of_none, r"the node 'none' \(Conv\): its group is \[0\]"),
}
"""Of each: how it is made, and what is said of it."""
