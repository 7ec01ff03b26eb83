"""An exported graph with its normalisation or its casts written otherwise: the same function, another form.

For engines whose builder fuses one form and not the other. See bench_engine_forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_MOVES = ("Reshape", "Transpose")


def as_instance(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write GroupNormalization as opset 20 has to: InstanceNormalization of groups, scale and bias after it."""

    def normalise(source: str, target: str, groups: int, epsilon: float) -> Iterator[NodeProto]:
        ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
        yield _constant(f"{target}.ones", ones)
        yield _constant(f"{target}.zeros", zeros)
        inputs = [source, f"{target}.ones", f"{target}.zeros"]
        yield helper.make_node("InstanceNormalization", inputs, [target], epsilon=epsilon)

    return _regrouped(model, normalise)


def as_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write GroupNormalization as LayerNormalization of each group's elements, scale and bias after it."""

    def normalise(source: str, target: str, groups: int, epsilon: float) -> Iterator[NodeProto]:
        yield _constant(f"{target}.one", np.ones(1, np.float32))
        yield helper.make_node("LayerNormalization", [source, f"{target}.one"], [target], axis=-1, epsilon=epsilon)

    return _regrouped(model, normalise)


def without_casts(model: onnx.ModelProto, operator: str) -> onnx.ModelProto:
    """Let an operator compute in the type before it: drop the casts to float32 before it and those back after it.

    Only where all that read it cast back; Reshape and Transpose may stand between. Scale and bias of a normalisation
    are cast to that type; by ONNX it still computes its statistics in float32 (`stash_type`).
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = [*made.graph.node]
    maker = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def before(name: str) -> NodeProto | None:
        node = maker.get(name)
        while node is not None and node.op_type in _MOVES and len(readers[node.output[0]]) == 1:
            node = maker.get(node.input[0])
        lifts = node is not None and node.op_type == "Cast" and _to(node) == TensorProto.FLOAT
        return node if lifts else None

    def after(node: NodeProto) -> list[NodeProto]:
        found = []
        for reader in readers.get(node.output[0], []):
            found += after(reader) if reader.op_type in _MOVES else [reader]
        return found

    drop: dict[str, str] = {}
    out: list[NodeProto] = []
    for node in nodes:
        if node.op_type == operator:
            lifts, back = [before(name) for name in node.input], after(node)
            low = {_to(one) if one.op_type == "Cast" else TensorProto.FLOAT for one in back}
            if lifts[0] is not None and len(low) == 1 and TensorProto.FLOAT not in low:
                casts = [*filter(None, lifts), *back]
                drop |= {cast.output[0]: cast.input[0] for cast in casts}
                for place, name in enumerate(node.input):
                    if name and lifts[place] is None:
                        out.append(helper.make_node("Cast", [name], [f"{node.output[0]}.{place}"], to=min(low)))
                        node.input[place] = f"{node.output[0]}.{place}"
        out.append(node)
    kept = [node for node in out if node.output[0] not in drop]
    for node in kept:
        for place, name in enumerate(node.input):
            while name in drop:
                name = drop[name]
            node.input[place] = name
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(kept)
    return made


def _regrouped(
    model: onnx.ModelProto, normalise: Callable[[str, str, int, float], Iterator[NodeProto]]
) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    out: list[NodeProto] = []
    for node in made.graph.node:
        if node.op_type != "GroupNormalization":
            out.append(node)
            continue
        (x, scale, bias), target = node.input, node.output[0]
        found: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        out.append(_constant(f"{target}.grouped", np.array([0, found["num_groups"], -1], np.int64)))
        out.append(helper.make_node("Reshape", [x, f"{target}.grouped"], [f"{target}.groups"]))
        out += normalise(f"{target}.groups", f"{target}.normal", found["num_groups"], found["epsilon"])
        out.append(helper.make_node("Shape", [x], [f"{target}.shape"]))
        out.append(helper.make_node("Reshape", [f"{target}.normal", f"{target}.shape"], [f"{target}.whole"]))
        out.append(_constant(f"{target}.last", np.array([1, 2], np.int64)))
        for name, given in (("scale", scale), ("bias", bias)):
            out.append(helper.make_node("Unsqueeze", [given, f"{target}.last"], [f"{target}.{name}"]))
        out.append(helper.make_node("Mul", [f"{target}.whole", f"{target}.scale"], [f"{target}.scaled"]))
        out.append(helper.make_node("Add", [f"{target}.scaled", f"{target}.bias"], [target]))
    del made.graph.node[:]
    made.graph.node.extend(out)
    return made


def _constant(name: str, value: np.ndarray[Any, Any]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _to(cast: NodeProto) -> int:
    return next(int(one.i) for one in cast.attribute if one.name == "to")
