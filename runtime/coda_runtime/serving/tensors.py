"""Tensors of a request, checked against what was declared before anything is made of them.

A tensor's content is raw little-endian bytes, or a list of Python values (JSON, or the typed contents of gRPC). Shapes
are only compared: nothing is allocated because a client named a size.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, InputError, TokenError
from ..images import check_batch
from ..io.counts import count

_INTEGERS = {"UINT8": "|u1", "INT32": "<i4", "INT64": "<i8"}
_LENGTH = 4  # bytes before each element of raw BYTES
_MAX_AXES = 8  # a shape that is longer is not even quoted


@dataclass(frozen=True)
class Tensor:
    """A tensor as it was sent. `shape` may be anything; `content` is raw bytes, or a list, or of no use."""

    name: str
    datatype: str
    shape: Any
    content: Any


def only_input(inputs: Sequence[Tensor], name: str, datatypes: Sequence[str]) -> Tensor:
    """Return the one input that a model has. Raises InputError for others, for two of them, and for other datatypes."""
    names = [tensor.name for tensor in inputs]
    if names != [name]:
        found = ", ".join(map(repr, names[:5])) or "none"
        raise InputError(f"the inputs are {found}; expected {name!r} once, and nothing else")
    tensor = inputs[0]
    if tensor.datatype not in datatypes:
        raise InputError(f"{name} has datatype {tensor.datatype!r}; expected {' or '.join(datatypes)}")
    return tensor


def read_pixels(tensor: Tensor, max_items: int) -> npt.NDArray[np.uint8]:
    """Read images, uint8 [N,H,W,3], N up to `max_items`. Raises InputError, ImageError."""
    shape = _shape(tensor, 4, "[N,H,W,3]", max_items)
    if not all(shape):
        raise ImageError(f"{tensor.name} has shape {list(shape)}; expected [N,H,W,3] with at least one pixel")
    pixels: npt.NDArray[np.uint8] = _integers(tensor, shape)
    check_batch(pixels)
    return pixels


def read_ids(tensor: Tensor, max_items: int) -> npt.NDArray[Any]:
    """Read ids, int32 or int64 [N,n], N up to `max_items`; their values are not checked.

    Raises InputError, TokenError.
    """
    shape = _shape(tensor, 2, "[N,n]", max_items)
    if not all(shape):
        raise TokenError(f"{tensor.name} has shape {list(shape)}; expected [N,n] with at least one token")
    return _integers(tensor, shape)


def read_files(tensor: Tensor, max_items: int) -> list[bytes]:
    """Read the files of a BYTES tensor [N], N up to `max_items`. Raises InputError."""
    (items,) = _shape(tensor, 1, "[N]", max_items)
    if items == 0:
        raise ImageError(f"{tensor.name} is empty; send at least one JPEG or PNG file")
    files = tensor.content
    if not isinstance(files, (bytes, memoryview)):
        if not isinstance(files, list) or not all(isinstance(file, bytes) for file in files):
            raise InputError(
                f"{tensor.name} has BYTES in JSON, which holds only text; send files as binary data "
                "(binary_data_size), each after its length in 4 bytes, little-endian"
            )
        if len(files) != items:
            raise InputError(f"{tensor.name} has {count(len(files), 'element')}, and its shape says {items}")
        return files
    return _elements(files, items, tensor.name)


def _shape(tensor: Tensor, ndim: int, expected: str, max_items: int) -> tuple[int, ...]:
    shape = tensor.shape
    # bool is an int to Python, and a shape may hold anything in JSON.
    if isinstance(shape, list) and len(shape) > _MAX_AXES:
        raise InputError(f"{tensor.name} has a shape of {count(len(shape), 'number')}; expected {expected}")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise InputError(f"{tensor.name} has shape {reprlib.repr(shape)}; expected {expected}, whole numbers from 0")
    if len(shape) != ndim:
        hint = ": add the batch axis" if len(shape) == ndim - 1 else ""
        raise InputError(f"{tensor.name} has shape {shape}; expected {expected}{hint}")
    if shape[0] > max_items:
        raise InputError(
            f"{tensor.name} has {count(shape[0], 'image')}; one request may have {max_items}: send several requests"
        )
    return tuple(shape)


def _integers(tensor: Tensor, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    dtype, numbers, raw = np.dtype(_INTEGERS[tensor.datatype]), math.prod(shape), tensor.content
    if not isinstance(raw, (bytes, memoryview)):
        return _listed(tensor, shape, dtype)
    if len(raw) != numbers * dtype.itemsize:
        raise InputError(
            f"{tensor.name} has {count(len(raw), 'byte')}; {tensor.datatype} {list(shape)} takes "
            f"{numbers * dtype.itemsize}"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _listed(tensor: Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read a list of numbers, flat or nested as the shape says."""
    name, kind = tensor.name, tensor.datatype
    if not isinstance(tensor.content, list):
        raise InputError(f"{name} has no data; expected a list of {count(math.prod(shape), 'number')}, or binary data")
    numbers = _flat(tensor.content, shape, name)
    limits = np.iinfo(dtype)
    # Before numpy sees them: it reads numbers from text, and gives each element the room of the longest text.
    values = np.array(numbers) if set(map(type, numbers)) == {int} else np.zeros(0)
    if values.dtype.kind not in "iu" or int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise InputError(f"{name} has values that are not {kind}: whole numbers from {limits.min} to {limits.max}")
    return values.astype(dtype).reshape(shape)


def _flat(values: list[Any], shape: tuple[int, ...], name: str) -> list[Any]:
    """Return as many elements as the shape says, of a list that is flat or nested in its way."""
    if values and isinstance(values[0], list):
        if len(values) != shape[0]:
            raise InputError(f"{name} has {len(values)} lists of numbers, and its shape says {list(shape)}")
        for side in shape[1:]:
            if not all(isinstance(value, list) and len(value) == side for value in values):
                raise InputError(f"{name} is not nested as its shape says, {list(shape)}")
            values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise InputError(f"{name} has {count(len(values), 'number')}, and its shape says {list(shape)}")
    return values


def _elements(raw: bytes | memoryview, items: int, name: str) -> list[bytes]:
    out: list[bytes] = []
    start = 0
    while start < len(raw) and len(out) < items:
        stop = start + _LENGTH + int.from_bytes(raw[start : start + _LENGTH], "little")
        if start + _LENGTH > len(raw) or stop > len(raw):
            raise InputError(
                f"{name} says that element {len(out)} ends at byte {stop}, and there are {len(raw)}; each element "
                "comes after its length in 4 bytes, little-endian"
            )
        out.append(bytes(raw[start + _LENGTH : stop]))
        start = stop
    if len(out) != items or start != len(raw):
        raise InputError(
            f"{name} has {count(len(out), 'element')} in {start} of its {count(len(raw), 'byte')}, and its shape says "
            f"{items}"
        )
    return out
