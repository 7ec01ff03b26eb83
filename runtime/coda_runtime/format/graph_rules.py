"""What a bundle's graph may do: operators of the list, loops of a constant length, no division that ends the process.

An engine library takes its file at its word, so what would never end, or end the process, is found in the file. One
pass over the nodes in their order, which ONNX asks for, carries along what is known of each value: its element type,
its shape and its numbers, where constants alone decide them. What is not known is not believed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .graph_model import Function, FunctionKey, Graph, Model, Node, RefusedError, text
from .graph_operators import (
    CONTROL,
    DIVISIONS,
    MAX_CALLS,
    MAX_NODE_RUNS,
    MAX_NODES,
    MAX_NUMBER,
    MICROSOFT,
    ONNX,
    OPERATORS,
    OPSETS,
    POSITIVE,
)
from .graph_values import ABSENT, NOTHING, Scope, fed, of_constant, result


def check_model(model: Model) -> None:
    """Raise RefusedError unless a model is one that a bundle may hold."""
    for domain, name, overload in model.functions:
        if overload:
            raise RefusedError(
                f"defines {text(name)} in the variant {text(overload)}; expected functions of one variant"
            )
        if domain in OPERATORS:
            raise RefusedError(f"defines {text(name)} anew, which is an operator of {_domain(domain)}")
    nodes, _ = _Rules(model).graph(model.graph, model.opsets)
    if nodes > MAX_NODES:
        raise RefusedError(f"has {_about(nodes)} nodes, with its functions; expected at most {MAX_NODES}")
    for value in (*model.graph.inputs, *model.graph.outputs):
        if not value.is_tensor:
            raise RefusedError(f"takes or returns {text(value.name)}, which is no tensor; expected tensors")


class _Rules:
    def __init__(self, model: Model) -> None:
        self._functions: Mapping[FunctionKey, Function] = model.functions
        self._costs: dict[FunctionKey, tuple[int, int]] = {}
        self._calls: list[FunctionKey] = []

    def graph(self, graph: Graph, opsets: Mapping[bytes, int], around: Scope | None = None) -> tuple[int, int]:
        """Check a graph; return (its nodes, those of its functions too, and how many nodes one run of it runs)."""
        scope = Scope(around)
        for tensor in graph.constants:
            scope.define(tensor.name, of_constant(tensor))
        constants = {tensor.name for tensor in graph.constants}
        for value in graph.inputs:
            if value.name not in constants:  # a constant may be named as an input too, and is none where none is fed
                scope.define(value.name, fed(value, inner=around is not None))
        nodes = runs = 0
        for node in graph.nodes:
            more_nodes, more_runs = self._node(node, opsets, scope)
            nodes, runs = nodes + more_nodes, runs + more_runs
            if runs > MAX_NODE_RUNS:
                raise RefusedError(
                    f"{_described(node)}: with it {_about(runs)} nodes run at a time, counted through loops and "
                    f"functions; expected at most {MAX_NODE_RUNS}"
                )
            known = result(node, scope)
            for position, name in enumerate(node.outputs):
                scope.define(name, known if position == 0 else NOTHING)
        return nodes, runs

    def _node(self, node: Node, opsets: Mapping[bytes, int], scope: Scope) -> tuple[int, int]:
        function = self._functions.get(node.called)
        if function is not None:
            _check_graphs(node, ())
            return self._call(node, function)
        _check_listed(node, opsets)
        _check_attributes(node)
        if node.domain == ONNX and node.operator in DIVISIONS:
            _check_division(node, scope)
        if node.operator == b"Attention":
            _check_heads(node, scope)
        held = CONTROL.get(node.operator, ()) if node.domain == ONNX else ()
        _check_graphs(node, held)
        if not held:
            return 1, 1
        trips = 1 if node.operator == b"If" else _trips(node, scope)
        nodes = runs = 1
        for name in held:
            if name in node.attributes:
                for graph in node.attributes[name].graphs:
                    inner_nodes, inner_runs = self.graph(graph, opsets, scope)
                    nodes, runs = nodes + inner_nodes, runs + trips * max(1, inner_runs)
        return nodes, runs

    def _call(self, node: Node, function: Function) -> tuple[int, int]:
        key = node.called
        if key not in self._costs:
            if key in self._calls or len(self._calls) >= MAX_CALLS:
                raise RefusedError(f"{_described(node)}: functions call each other more than {MAX_CALLS} deep")
            self._calls.append(key)
            self._costs[key] = self.graph(function.body, function.opsets)
            self._calls.pop()
        return self._costs[key]


def _check_listed(node: Node, opsets: Mapping[bytes, int]) -> None:
    if node.operator not in OPERATORS.get(node.domain, ()):
        raise RefusedError(
            f"{_described(node)}: {text(node.operator)} of {_domain(node.domain)} is not among the operators that a "
            "bundle may hold; expected one of those in docs/bundle.md, or a newer coda-runtime that has it"
        )
    version = opsets.get(node.domain, 1 if node.domain == MICROSOFT else 0)
    if version not in OPSETS[node.domain]:
        known = OPSETS[node.domain]
        raise RefusedError(
            f"{_described(node)}: it is written in version {version} of {_domain(node.domain)}; expected "
            f"{known.start} to {known.stop - 1}"
        )


def _check_graphs(node: Node, held: tuple[bytes, ...]) -> None:
    """Refuse graphs where an operator has none, and those that a function's caller would give."""
    for name, attribute in node.attributes.items():
        if name in held:
            if attribute.by_caller or len(attribute.graphs) != 1:
                raise RefusedError(f"{_described(node)}: {text(name)} is not a graph that stands there")
        elif attribute.by_caller and held:
            raise RefusedError(f"{_described(node)}: its {text(name)} is given by a function's caller")
        elif attribute.graphs:
            raise RefusedError(f"{_described(node)}: {text(name)} holds a graph, which {text(node.operator)} has not")


def _check_attributes(node: Node) -> None:
    """Refuse numbers that no operator means: sizes that divide under 1, and what 32 bits do not hold."""
    if node.operator == b"Constant":
        return
    for name, attribute in node.attributes.items():
        given = attribute.numbers if attribute.number is None else [*attribute.numbers, attribute.number]
        if name in POSITIVE and (attribute.by_caller or not given or min(given) < 1):
            found = "given by a function's caller" if attribute.by_caller else str(given[:8])
            raise RefusedError(f"{_described(node)}: its {name.decode()} is {found}; expected numbers from 1 on")
        if given and not -MAX_NUMBER <= min(given) <= max(given) <= MAX_NUMBER:
            raise RefusedError(f"{_described(node)}: its {text(name)} is {given[:8]}; expected at most {MAX_NUMBER}")


def _check_division(node: Node, scope: Scope) -> None:
    """Refuse a division whose divisor might be an integer of 0 or -1."""
    values = [scope.get(name) for name in node.inputs]
    if len(values) == 2 and not any(value.is_float for value in values):
        constant = values[1].constant
        divisors = None if constant is None else constant.integers()
        if divisors is None or bool(np.isin(divisors, (0, -1)).any()):
            found = "not a constant" if divisors is None else "0 or -1"
            raise RefusedError(
                f"{_described(node)}: it divides by {text(node.inputs[1])}, which is {found}, and not known to be "
                "floating-point; expected floating-point numbers, or constant integers other than 0 and -1"
            )


def _check_heads(node: Node, scope: Scope) -> None:
    """Refuse an Attention that might have no heads, by whose number onnxruntime divides: it ends the process."""
    for name in node.inputs[:2]:
        dims = scope.get(name).dims
        # Of three axes none is the heads': their number is an attribute, and those are positive.
        if dims is None or not (len(dims) == 3 or (len(dims) == 4 and dims[1] > 0)):
            raise RefusedError(
                f"{_described(node)}: how many heads {text(name)} has is not a constant from 1 on; "
                "expected it reshaped to such a shape"
            )


def _trips(node: Node, scope: Scope) -> int:
    """Return how often a loop runs its graph. Raises RefusedError where constants alone do not tell."""
    if node.operator == b"Loop":
        constant = scope.get(node.inputs[0]).constant if node.inputs and node.inputs[0] else None
        counts = None if constant is None else constant.integers()
        if counts is not None and counts.size == 1:
            return max(0, int(counts[0]))
        raise RefusedError(f"{_described(node)}: how often it runs is not a constant; expected a number in the file")
    scanned = node.attributes.get(b"num_scan_inputs", ABSENT).number or 0
    names = node.inputs[-scanned:] if 0 < scanned <= len(node.inputs) else []
    axes = node.attributes.get(b"scan_input_axes", ABSENT).numbers or [0] * len(names)
    lengths = []
    for name, axis in zip(names, axes, strict=False):
        dims = scope.get(name).dims
        if dims is not None and -len(dims) <= axis < len(dims) and dims[axis] >= 0:
            lengths.append(dims[axis])
    if names and len(lengths) == len(names):
        return max(lengths)
    raise RefusedError(
        f"{_described(node)}: how often it runs is not a constant; expected to walk constants, or these reshaped"
    )


def _described(node: Node) -> str:
    """Name a node: by its own name, or by what it returns."""
    if node.name:
        return f"has the node {text(node.name)} ({_plain(node.operator)})"
    made = f" that makes {text(node.outputs[0])}" if node.outputs else ""
    return f"has a node {_plain(node.operator)}{made}"


def _plain(operator: bytes) -> str:
    return text(operator)[1:-1]


def _domain(domain: bytes) -> str:
    return "ONNX" if domain == ONNX else f"the domain {text(domain)}"


def _about(count: int) -> str:
    return str(count) if count < 10**9 else "over 10^9"
