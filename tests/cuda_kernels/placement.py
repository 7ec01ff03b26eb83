"""What of an ONNX graph a release of ONNX Runtime has no CUDA kernel for, its subgraphs included.

A node without one runs on the CPU, and the activations go there and back. It is taken apart instead where ONNX defines
its operator by others and the CPU provider has no kernel for it either, as bfloat16's normalisations are.

That a node has a kernel does not say that it runs on the GPU: what is computed of shapes, a few integers that are in
the host's memory anyway, onnxruntime leaves on the CPU. Which nodes those are is the session's to say, and what of it
may be there the runtime's: coda_runtime.backends.onnxruntime.placement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx.inliner
from onnx import TensorProto
from onnx.defs import OpSchema

from tests.cuda_kernels.record import is_composed
from tests.cuda_kernels.table import CPU, CUDA, Release

_NO_KERNEL_NEEDED = {"Constant"}  # they become initializers while the file is read
_MOST_DEFINITIONS = 4  # one operator defined by the next


def without_kernel(model: onnx.ModelProto, release: Release) -> list[str]:
    """Return the nodes that no CUDA kernel of the release runs, as "Round(22) of float in Scan"; none where all have.

    Raises ValueError where a value's type cannot be told.
    """
    model = _with_types_of_constants(model)
    for _ in range(_MOST_DEFINITIONS):
        typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        opset = next(entry.version for entry in typed.opset_import if entry.domain in ("", "ai.onnx"))
        missing, apart = [], set()
        for node, types, where in _nodes(typed.graph, {}, ""):
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
            given = constraint_types(schema, node, types)
            if node.op_type in _NO_KERNEL_NEEDED or release.has(CUDA, node.op_type, schema.since_version, given):
                continue
            if is_composed(schema) and not release.has(CPU, node.op_type, schema.since_version, given):
                apart.add((node.domain, node.op_type))
            kinds = sorted({kind for kinds in given.values() for kind in kinds})
            missing.append(f"{node.op_type}({schema.since_version}) of {', '.join(kinds)}{where}")
        if not apart:
            return missing
        model = onnx.inliner.inline_selected_functions(typed, sorted(apart), inline_schema_functions=True)
    raise ValueError(f"{sorted(apart)} are still there after {_MOST_DEFINITIONS} times")


def _with_types_of_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a value_info for each initializer: the inliner looks for their types there."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    told = {info.name for info in (*out.graph.input, *out.graph.value_info)}
    for tensor in out.graph.initializer:
        if tensor.name not in told:
            out.graph.value_info.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return out


def constraint_types(schema: OpSchema, node: onnx.NodeProto, types: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return the types of a node's values by the names that its operator has for them, such as {"T": {"float"}}.

    Kernels name a type by its letter, or by an input that it is of.
    """
    found: dict[str, set[str]] = {}
    for formals, actual in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for index, name in enumerate(actual):
            if not name:
                continue
            formal = formals[min(index, len(formals) - 1)]  # the last one may stand for many
            for key in (formal.type_str, formal.name):
                found.setdefault(key, set()).add(types[name])
    return {name: frozenset(kinds) for name, kinds in found.items()}


def _nodes(
    graph: onnx.GraphProto, outer: Mapping[str, str], where: str
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, str], str]]:
    """Yield each node of a graph and of those inside its nodes, with the types of the values that it may name."""
    types = {**outer, **{tensor.name: _kind(tensor.data_type) for tensor in graph.initializer}}
    for info in (*graph.input, *graph.value_info, *graph.output):
        if info.type.tensor_type.elem_type:
            types[info.name] = _kind(info.type.tensor_type.elem_type)
    for node in graph.node:
        unknown = [name for name in (*node.input, *node.output) if name and name not in types]
        if unknown:
            raise ValueError(f"the type of {unknown[0]}, of a {node.op_type}{where}, is not known")
        yield node, types, where
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g, types, f" in {node.op_type}")


def _kind(element: int) -> str:
    name: str = TensorProto.DataType.Name(element)
    return name.lower()
