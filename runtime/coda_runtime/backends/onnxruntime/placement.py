"""Which provider runs which node, and what of a graph may be on the CPU where a GPU was asked for.

A session is asked once it has placed its graph. The answer has the nodes inside a Scan, a Loop and an If too, and those
that a normalisation in bfloat16 is taken apart into.

What may be on the CPU is what a shape is computed with: Shape's output and constants, and what is made of these alone.
These are a few integers in the host's memory, and onnxruntime leaves them there on purpose. Whatever else is on the CPU
takes the activations there and back: MAR's encoder took 731 ms for 69 by one normalisation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...format.graph_model import Graph, read_model
from .providers import CPU

OF_SHAPES = frozenset({"Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity"})
OF_SHAPES |= {"Mul", "Range", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"}
"""The operators that compute with shapes. They compute with activations as well."""

_SOURCES = frozenset({b"Shape", b"Size", b"Constant"})


class Placed(NamedTuple):
    """A node, as onnxruntime calls it. Those that it made itself, of a function's body too, may have the name ""."""

    provider: str
    operator: str
    name: str


def placed(session: Any) -> list[Placed] | None:
    """Return the nodes of an InferenceSession that was told to record them; None where this onnxruntime cannot tell.

    Sessions on the CPU provider alone do not record them.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
        return None
    return [
        Placed(part.ep_name, node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def work_on_cpu(nodes: list[Placed], data: bytes) -> set[str]:
    """Return the operators that run on the CPU provider and compute with more than shapes; `data` is the ONNX file.

    A node that the file does not name is known by its operator alone.
    """
    left = [node for node in nodes if node.provider == CPU]
    if not left:
        return set()
    work = _work(read_model(data).graph, set())
    return {
        node.operator
        for node in left
        if node.operator not in OF_SHAPES or (node.operator.encode(), node.name.encode()) in work
    }


def _work(graph: Graph, outer: set[bytes]) -> set[tuple[bytes, bytes]]:
    """Return the operators and names of the nodes whose inputs are not all made of shapes and constants.

    `outer` are the values of the graphs around it that are.
    """
    known = outer | {tensor.name for tensor in graph.constants} | {b""}  # b"": an input that is left out
    found: set[tuple[bytes, bytes]] = set()
    for node in graph.nodes:
        if node.operator in _SOURCES or known.issuperset(node.inputs):
            known.update(node.outputs)
        elif node.name:
            found.add((node.operator, node.name))
        for attribute in node.attributes.values():
            for inner in attribute.graphs:
                found |= _work(inner, known)
    return found
