"""What is known of a graph's values without running it: element types, shapes, and the constants that decide loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .graph_model import Attribute, Node, RefusedError, Tensor, Value, text
from .graph_operators import ONNX

_FLOATS = frozenset({1, 10, 11, 16})  # float32, float16, float64, bfloat16
_RETURNS_FLOATS = frozenset(
    b"AveragePool BatchNormalization Conv Cos DequantizeLinear Elu Exp Gelu GlobalAveragePool GroupNormalization "
    b"HardSigmoid InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax Reciprocal Round Sigmoid Sin "
    b"Softmax Softplus Sqrt Tanh".split()
)
"""Operators that ONNX defines for floating-point numbers alone; each returns the type it takes."""
_RETURNS_ITS_INPUT = frozenset(
    b"Abs Add Clip Concat Div Dropout Erf Expand Flatten Gather Gemm Identity MatMul Max Mean Min Mod Mul Neg Pad Pow "
    b"ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Sign Slice Split Squeeze Sub Sum Tile Transpose "
    b"Unsqueeze".split()
)
"""Operators whose first output has the type of their first input."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a value: whether it is of floating-point numbers, its shape, and the constant that it is.

    The shape has -1 for a size that constants do not tell.
    """

    is_float: bool = False
    dims: tuple[int, ...] | None = None
    constant: Tensor | None = None


NOTHING = Known()
_MAX_RANK = 64


class Scope:
    """The values that nodes of a graph may name: its own, and those of the graphs around it."""

    def __init__(self, around: Scope | None = None) -> None:
        self._own: dict[bytes, Known] = {}
        self._around = around

    def get(self, name: bytes) -> Known:
        """Return what is known of the value that a node so far may mean by a name."""
        return self._found(name) or NOTHING

    def define(self, name: bytes, known: Known) -> None:
        """Add a value. Raises RefusedError for a second of its name, also around: readers differ in which they take."""
        if self._found(name) is not None:
            raise RefusedError(f"defines the value {text(name)} twice")
        if name:
            self._own[name] = known

    def _found(self, name: bytes) -> Known | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope._own:
                return scope._own[name]
            scope = scope._around
        return None


ABSENT = Attribute(None, [], None, [], by_caller=False)
"""In the place of an attribute that a node has not."""


def of_constant(tensor: Tensor) -> Known:
    """Return what is known of a constant: all."""
    return Known(tensor.type in _FLOATS, tensor.dims, tensor)


def fed(value: Value, inner: bool) -> Known:
    """Return what is known of a graph's input. Of an inner one's the file alone tells, which is not believed."""
    return Known(not inner and value.type in _FLOATS)


def result(node: Node, scope: Scope) -> Known:
    """Return what is known of a node's first output."""
    if node.domain != ONNX:
        return NOTHING
    first = scope.get(node.inputs[0]) if node.inputs else NOTHING
    if node.operator == b"Constant":
        value = node.attributes.get(b"value", ABSENT)
        if value.tensor is None or value.by_caller:
            return NOTHING
        return of_constant(value.tensor)
    if node.operator == b"Cast":
        to = node.attributes.get(b"to", ABSENT)
        return Known(not to.by_caller and to.number in _FLOATS)
    if node.operator == b"Identity":
        return first
    if node.operator == b"Reshape":
        return Known(first.is_float, _reshaped(node, first, scope))
    if node.operator == b"Transpose":
        return Known(first.is_float, _transposed(node, first))
    if node.operator in _RETURNS_FLOATS:
        return Known(is_float=True)
    if node.operator in _RETURNS_ITS_INPUT:
        return Known(first.is_float)
    return NOTHING


def _reshaped(node: Node, first: Known, scope: Scope) -> tuple[int, ...] | None:
    """Return the shape after a Reshape by a constant, None where the shape is none."""
    constant = scope.get(node.inputs[1]).constant if len(node.inputs) == 2 else None
    wanted = None if constant is None else constant.integers()
    if wanted is None or not 0 < wanted.size <= _MAX_RANK:
        return None
    dims = [int(size) for size in wanted]
    unknown = [axis for axis, size in enumerate(dims) if size < 1]  # inferred, or as it was, or none
    rest = math.prod(size for size in dims if size > 0)
    if len(unknown) == 1 and dims[unknown[0]] == -1 and first.dims is not None and min(first.dims, default=0) >= 0:
        return tuple(math.prod(first.dims) // rest if size == -1 else size for size in dims)
    return tuple(max(size, -1) if size else -1 for size in dims)


def _transposed(node: Node, first: Known) -> tuple[int, ...] | None:
    order = node.attributes.get(b"perm", ABSENT)
    if first.dims is None or order.by_caller or sorted(order.numbers) != [*range(len(first.dims))]:
        return None
    return tuple(first.dims[axis] for axis in order.numbers)
