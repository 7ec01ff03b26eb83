"""One order of additions on every processor with AVX2 and FMA: what differs in onnxruntime between them, taken away.

Two things do. Its highest level of optimization moves convolutions to blocks as wide as the processor's registers, and
its Softmax adds up as many numbers at a time. So the level stays below, and Softmax becomes what it is made of, which
is computed alike. Products of matrices are cut by the number of threads: so a run has one, and images run side by side.
"""

from __future__ import annotations

import platform
from typing import Any

from ...errors import BackendError
from ...format.manifest import Artifact
from ...format.precision import FP32
from ...io.protobuf_wire import WireError, make_field, make_number, read_fields, read_number
from ...machine.processors import has_avx2

# Field numbers of ONNX's messages.
_GRAPH = 7
_NODE = 1
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_NAME, _INT, _INTS, _TYPE = 1, 3, 8, 20
_TYPE_INTS = 7
_LAST_AXIS = -1
"""Softmax's own default."""


def problem(artifact: Artifact) -> BackendError | None:
    """Return why what this file computes here may not be what it computes elsewhere; None where it is the same."""
    if artifact.precision != FP32:
        return BackendError(
            f"reproducible ids are for fp32, and {artifact.file} is in {artifact.precision}: processors differ in how "
            'they compute that; load with precision="fp32", or leave out reproducible'
        )
    if not has_avx2():
        return BackendError(
            f"reproducible ids need an x86-64 processor with AVX2 and FMA, and this one ({platform.machine()}) rounds "
            "its sums otherwise; make the ids on one that has them, or leave out reproducible"
        )
    return None


def set_order(ort: Any, settings: Any) -> None:
    """Leave convolutions where they are and products in one piece, in the options of a session."""
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def without_softmax(model: bytes) -> bytes:
    """Return an ONNX model, opset 18 or later, with each Softmax of its graph replaced by what it is made of.

    What is no model comes back as it is: onnxruntime says what is wrong with it.
    """
    out, before = [], 0
    try:
        for field, _, start, end in read_fields(model, 0, len(model), "ONNX"):
            out.append(make_field(field, _graph(model, start, end)) if field == _GRAPH else model[before:end])
            before = end
    except WireError:
        return model
    return b"".join(out)


def _graph(model: bytes, start: int, end: int) -> bytes:
    out, before = [], start
    for field, _, at, stop in read_fields(model, start, end, "ONNX"):
        softmax = _softmax(model, at, stop) if field == _NODE else None
        out.append(model[before:stop] if softmax is None else softmax)
        before = stop
    return b"".join(out)


def _softmax(model: bytes, start: int, end: int) -> bytes | None:
    """Return the nodes that stand for this one, None if it is no Softmax."""
    found: dict[int, bytes] = {}
    axis = _LAST_AXIS
    for field, _, at, stop in read_fields(model, start, end, "ONNX"):
        if field == _ATTRIBUTE:
            axis = _axis(model, at, stop, axis)
        else:
            found[field] = model[at:stop]
    if found.get(_OP_TYPE) != b"Softmax" or found.get(_DOMAIN) or not {_INPUT, _OUTPUT} <= found.keys():
        return None
    x, y = found[_INPUT], found[_OUTPUT]
    axes, top, shifted, power, total = (y + b"/" + name for name in (b"axes", b"top", b"shifted", b"power", b"total"))
    ints = make_field(_NAME, b"value_ints") + make_field(_INTS, make_number(axis)) + make_field(_TYPE, _TYPE_INTS)
    return b"".join(
        [
            _node(b"Constant", [], axes, make_field(_ATTRIBUTE, ints)),
            _node(b"ReduceMax", [x, axes], top),
            _node(b"Sub", [x, top], shifted),
            _node(b"Exp", [shifted], power),
            _node(b"ReduceSum", [power, axes], total),
            _node(b"Div", [power, total], y),
        ]
    )


def _axis(model: bytes, start: int, end: int, otherwise: int) -> int:
    """Return the number in an attribute named axis, else `otherwise`."""
    found = {field: model[at:stop] for field, _, at, stop in read_fields(model, start, end, "ONNX")}
    if found.get(_NAME) != b"axis" or _INT not in found:
        return otherwise
    return read_number(found[_INT])


def _node(operator: bytes, inputs: list[bytes], output: bytes, more: bytes = b"") -> bytes:
    given = b"".join(make_field(_INPUT, name) for name in inputs)
    return make_field(_NODE, given + make_field(_OUTPUT, output) + make_field(_OP_TYPE, operator) + more)
