"""Whether onnxruntime adds up products of 8 bits without overflow here, and what keeps it from that.

On x86 without VNNI its fast way adds two products in 16 bits, which the largest do not fit: a latent is 5 % off then.
A session's option takes a way that fits, which is as fast there and three times slower with VNNI. Which processor this
is does not tell enough, since onnxruntime chooses by rules of its own: so the largest sum is computed once in a
process, and the option is set where it comes out wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import BackendError
from ...io.protobuf_wire import make_field

PRECISE: Mapping[str, str] = {"session.x64quantprecision": "1"}
"""Of a session: sums of products of 8 bits that cannot overflow."""

Make = Callable[[bytes, Mapping[str, str]], Any]
"""Makes a session of a model, with these options beside its own."""

_found: dict[str, Mapping[str, str] | None] = {}  # in this process, by provider

_CHANNELS, _SIDE, _LARGEST = 64, 4, 127
_FLOAT, _INT8 = 1, 3
_OPSET, _IR = 13, 8


def options_for(where: str, make: Make) -> Mapping[str, str]:
    """Return the options that a session of an int8 graph needs on the provider `where`, which `make` makes sessions of.

    Raises BackendError where none makes the sums right.
    """
    if where not in _found:
        ways: tuple[Mapping[str, str], ...] = ({}, PRECISE)
        _found[where] = next((options for options in ways if _is_right(make(largest_sum(), options))), None)
    found = _found[where]
    if found is None:
        raise BackendError(
            f"onnxruntime adds up products of 8 bits wrongly on {where} here; load another precision, or with another "
            "backend or provider"
        )
    return found


def _is_right(session: Any) -> bool:
    image = np.ones((1, _CHANNELS, _SIDE, _SIDE), np.float32)
    (sums,) = session.run(None, {"x": image})
    return bool(np.allclose(sums, _CHANNELS))


@functools.cache
def largest_sum() -> bytes:
    """Return an ONNX model of one convolution in int8, x float32 [1, 64, 4, 4] to y of the same shape.

    Of ones, which are 127 in its integers as all of its weights are, it makes 64.
    """
    scale = _scalar("scale", 1 / _LARGEST) + _scalar("sum_scale", _CHANNELS / _LARGEST) + _zero()
    weights = np.full((_CHANNELS, _CHANNELS, 1, 1), _LARGEST, np.int8)
    nodes = (
        _node("QuantizeLinear", ["x", "scale", "zero"], "x_int8")
        + _node("DequantizeLinear", ["x_int8", "scale", "zero"], "x_float")
        + _node("DequantizeLinear", ["w", "scale", "zero"], "w_float")
        + _node("Conv", ["x_float", "w_float"], "sum")
        + _node("QuantizeLinear", ["sum", "sum_scale", "zero"], "sum_int8")
        + _node("DequantizeLinear", ["sum_int8", "sum_scale", "zero"], "y")
    )
    graph = nodes + make_field(2, b"sums") + scale + _table("w", weights.shape, _INT8, weights.tobytes())
    graph += make_field(11, _value("x")) + make_field(12, _value("y"))
    return make_field(1, _IR) + make_field(7, graph) + make_field(8, make_field(2, _OPSET))


# ONNX's messages, by the numbers of their fields.


def _node(operator: str, inputs: list[str], output: str) -> bytes:
    given = b"".join(make_field(1, name.encode()) for name in inputs)
    return make_field(1, given + make_field(2, output.encode()) + make_field(4, operator.encode()))


def _table(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
    dims = b"".join(make_field(1, size) for size in shape)
    return make_field(5, dims + make_field(2, kind) + make_field(8, name.encode()) + make_field(9, data))


def _scalar(name: str, value: float) -> bytes:
    return _table(name, (), _FLOAT, np.float32(value).tobytes())


def _zero() -> bytes:
    return _table("zero", (), _INT8, b"\0")


def _value(name: str) -> bytes:
    dims = b"".join(make_field(1, make_field(1, size)) for size in (1, _CHANNELS, _SIDE, _SIDE))
    tensor = make_field(1, _FLOAT) + make_field(2, dims)
    return make_field(1, name.encode()) + make_field(2, make_field(1, tensor))
