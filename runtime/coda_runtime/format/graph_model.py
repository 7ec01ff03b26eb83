"""An ONNX file's graphs, nodes and functions as objects, read from protobuf's wire format as far as rules need them.

An ONNX file is a protobuf message. This reads its fields as far as graphs, nodes, functions and tensors go, jumps over
what they hold by its length, and keeps where a tensor's numbers lie. What readers may understand differently is no
model here: a field that stands twice where one is expected, or has another wire type. The numbers are the field
numbers of onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..io.protobuf_wire import LENGTH_DELIMITED, VARINT, Buffer, Span, WireError, read_ints, select_fields
from .graph_operators import MAX_NODES

_MAX_FIELDS = 1_000_000  # two or three seconds of reading; a graph of a tokenizer has some thousands
_MAX_DEPTH = 64  # messages in each other; a graph in a graph is three
_COPIED = 1 << 16  # messages up to this size are read in memory, larger ones in the file
_MAX_VALUES = 1 << 18  # numbers of a constant that are looked at
_MAX_VARINTS = 1 << 12  # bytes of those that are written one by one

_DELIMITED, _VARINT, _EITHER = frozenset({LENGTH_DELIMITED}), frozenset({VARINT}), frozenset({VARINT, LENGTH_DELIMITED})


class _Message:
    """A kind of message, and which fields of it are read."""

    def __init__(self, *, single: str = "", many: str = "", number: str = "", numbers: str = "") -> None:
        """Take fields by their numbers: of bytes, once and repeated; of varints, once and repeated, packed or not."""
        kinds = ((single, _DELIMITED), (many, _DELIMITED), (number, _VARINT), (numbers, _EITHER))
        self.wires = {int(field): wires for fields, wires in kinds for field in fields.split()}
        self.once = frozenset(map(int, f"{single} {number}".split()))


_MODEL = _Message(single="7", many="8 20 25")
_GRAPH = _Message(many="1 5 11 12 15")
_NODE = _Message(single="3 4 7 8", many="1 2 5")
_ATTRIBUTE = _Message(single="1 5 6 21 22", many="10 11 23", number="3", numbers="8")
_PLAIN = frozenset({1, 3, 20})  # fields of an attribute that is a number or a text
_TENSOR = _Message(single="8 9", many="13", number="2 14", numbers="1 5 7 11")
_SPARSE = _Message(single="1 2")
_FUNCTION = _Message(single="1 10 13", many="4 7 9 11")
_TRAINING = _Message(single="1 2")
_VALUE = _Message(single="1 2")
_TYPE = _Message(single="1 4 5 7 8 9")
_ELEMENT = _Message(number="1")
_OPSET = _Message(single="1", number="2")

_INTEGERS = {2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 12: "u4", 13: "u8"}
"""Of the element types that are integers of whole bytes, NumPy's names."""


class RefusedError(Exception):
    """The file is an ONNX model that a bundle may not hold; the argument says what it does, with the file as "it"."""


@dataclass(slots=True)
class Tensor:
    """A constant: its name, element type and shape, and where its numbers lie."""

    name: bytes
    type: int
    dims: tuple[int, ...]
    data: Buffer
    spans: dict[int, list[Span]]

    def integers(self) -> npt.NDArray[np.integer[Any]] | None:
        """Return its numbers; None where they are no integers, too many to look at, or not as many as its shape."""
        count = math.prod(self.dims)
        if self.type not in _INTEGERS or not 0 <= count <= _MAX_VALUES or (9 in self.spans and len(self.spans) > 1):
            return None
        if 9 in self.spans:
            kind = np.dtype(_INTEGERS[self.type]).newbyteorder("<")
            _, start, end = self.spans[9][0]
            return np.frombuffer(self.data[start:end], kind) if end - start == count * kind.itemsize else None
        spans = [span for number in (5, 7, 11) for span in self.spans.get(number, ())]
        if sum(end - start for _, start, end in spans) > _MAX_VARINTS:
            return None
        numbers = [number for span in spans for number in read_ints(self.data, *span)]
        return np.array(numbers, np.int64) if len(numbers) == count else None


@dataclass(slots=True)
class Attribute:
    """An attribute as far as any operator's is looked at. `by_caller`: a function's, whose value its caller gives."""

    number: int | None
    numbers: list[int]
    tensor: Tensor | None
    graphs: list[Graph]
    by_caller: bool


@dataclass(slots=True)
class Node:
    """A call of an operator or of a function."""

    operator: bytes
    domain: bytes
    overload: bytes
    name: bytes
    inputs: list[bytes]
    outputs: list[bytes]
    attributes: dict[bytes, Attribute]

    @property
    def called(self) -> FunctionKey:
        """What it calls: (domain, name, overload)."""
        return self.domain, self.operator, self.overload


@dataclass(slots=True)
class Value:
    """An input or output of a graph; `type` is None where it is not told, and `is_tensor` False where it is another."""

    name: bytes
    type: int | None
    is_tensor: bool


@dataclass(slots=True)
class Graph:
    """A graph, in the file's order."""

    nodes: list[Node]
    constants: list[Tensor]
    inputs: list[Value]
    outputs: list[Value]


@dataclass(slots=True)
class Function:
    """What a file defines an operator by. Of its inputs only the names are known."""

    body: Graph
    opsets: dict[bytes, int]


FunctionKey = tuple[bytes, bytes, bytes]


@dataclass(slots=True)
class Model:
    """A whole file. `opsets` are the versions of each domain that its graph is written in."""

    graph: Graph
    opsets: dict[bytes, int]
    functions: dict[FunctionKey, Function]


def read_model(data: Buffer) -> Model:
    """Read a file. Raises WireError for what is no ONNX model, RefusedError for weights in another file."""
    return _Reader(data).model()


Place = tuple[Buffer, int, int]


class _Reader:
    """Reads messages, and counts fields, nodes and the depth: a file sets all three."""

    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._left = _MAX_FIELDS
        self._nodes = self._depth = 0

    def model(self) -> Model:
        found, data = self._message(_MODEL, (self._data, 0, len(self._data)))
        for _, start, end in found.get(20, ()):  # nothing runs them; their weights are looked for all the same
            parts, inner = self._message(_TRAINING, (data, start, end))
            self._graphs(inner, [*parts.get(1, ()), *parts.get(2, ())])
        functions: dict[FunctionKey, Function] = {}
        for _, start, end in found.get(25, ()):
            key, function = self._function((data, start, end))
            if key in functions:
                raise WireError(f"the function {text(key[1])} appears twice")
            functions[key] = function
        graphs = self._graphs(data, found.get(7, ()))
        if not graphs:
            raise WireError("it holds no graph")
        return Model(graphs[0], self._opsets(data, found.get(8, ())), functions)

    def _message(self, kind: _Message, place: Place) -> tuple[dict[int, list[Span]], Buffer]:
        """Return where the fields of a message lie, by number, and the buffer that this is told for."""
        data, start, end = place
        if not isinstance(data, bytes) and end - start <= _COPIED:
            data, start, end = data[start:end], 0, end - start
        found, count = select_fields(data, start, end, "ONNX", kind.wires, kind.once, self._left)
        self._left -= count
        if self._left < 0:
            raise WireError(f"it has more than {_MAX_FIELDS} fields")
        return found, data

    def _graphs(self, data: Buffer, spans: Iterable[Span]) -> list[Graph]:
        self._depth += 1
        if self._depth > _MAX_DEPTH // 3:  # a graph, a node and an attribute
            raise WireError(f"its messages are nested more than {_MAX_DEPTH} deep")
        out = [self._graph((data, start, end)) for _, start, end in spans]
        self._depth -= 1
        return out

    def _graph(self, place: Place) -> Graph:
        found, data = self._message(_GRAPH, place)
        constants = [self._tensor((data, start, end)) for _, start, end in found.get(5, ())]
        constants += [self._sparse((data, start, end)) for _, start, end in found.get(15, ())]
        inputs, outputs = (
            [self._value((data, start, end)) for _, start, end in found.get(number, ())] for number in (11, 12)
        )
        return Graph(self._nodes_of(data, found.get(1, ())), constants, inputs, outputs)

    def _nodes_of(self, data: Buffer, spans: Iterable[Span]) -> list[Node]:
        out = []
        for _, start, end in spans:
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise RefusedError(f"has more than {MAX_NODES} nodes, which would take an engine library minutes")
            out.append(self._node((data, start, end)))
        return out

    def _node(self, place: Place) -> Node:
        found, data = self._message(_NODE, place)
        operator, domain, overload, name = [_bytes(data, found, field) for field in (4, 7, 8, 3)]
        inputs = [data[start:end] for _, start, end in found.get(1, ())]
        outputs = [data[start:end] for _, start, end in found.get(2, ())]
        attributes: dict[bytes, Attribute] = {}
        for _, start, end in found.get(5, ()):
            key, attribute = self._attribute((data, start, end))
            if key in attributes:
                raise WireError(f"an attribute {text(key)} appears twice in one node")
            attributes[key] = attribute
        return Node(operator, domain_name(domain), overload, name, inputs, outputs, attributes)

    def _attribute(self, place: Place) -> tuple[bytes, Attribute]:
        found, data = self._message(_ATTRIBUTE, place)
        name, number = _bytes(data, found, 1), _number(data, found, 3)
        if found.keys() <= _PLAIN:
            return name, Attribute(number, [], None, [], by_caller=False)
        tensors = [self._tensor((data, start, end)) for field in (5, 10) for _, start, end in found.get(field, ())]
        for field in (22, 23):
            for _, start, end in found.get(field, ()):
                self._sparse((data, start, end))
        graphs = [graph for field in (6, 11) if field in found for graph in self._graphs(data, found[field])]
        numbers = self._numbers(data, found.get(8, ()))
        return name, Attribute(number, numbers, tensors[0] if 5 in found else None, graphs, 21 in found)

    def _tensor(self, place: Place) -> Tensor:
        found, data = self._message(_TENSOR, place)
        # Readers cut the number to 32 bits or fewer, so that anything but 0 may come to mean "external".
        if 13 in found or any(byte & 0x7F for _, start, end in found.get(14, ()) for byte in data[start:end]):
            raise RefusedError("keeps weights in another file (external data); expected one self-contained file")
        dims = self._numbers(data, found.get(1, ()))
        name, kind = _bytes(data, found, 8), _number(data, found, 2) or 0
        values = {field: spans for field, spans in found.items() if field in (5, 7, 9, 11)}
        return Tensor(name, kind, tuple(dims), data, values)

    def _sparse(self, place: Place) -> Tensor:
        """Return a constant of which its name alone is known."""
        found, data = self._message(_SPARSE, place)
        parts = [self._tensor((data, start, end)) for number in (1, 2) for _, start, end in found.get(number, ())]
        return Tensor(parts[0].name if 1 in found else b"", 0, (), b"", {})

    def _value(self, place: Place) -> Value:
        found, data = self._message(_VALUE, place)
        name = _bytes(data, found, 1)
        if 2 not in found:
            return Value(name, None, True)
        _, start, end = found[2][0]
        kinds, data = self._message(_TYPE, (data, start, end))
        if 1 not in kinds:
            return Value(name, None, not kinds)
        _, start, end = kinds[1][0]
        element, data = self._message(_ELEMENT, (data, start, end))
        return Value(name, _number(data, element, 1), len(kinds) == 1)

    def _function(self, place: Place) -> tuple[FunctionKey, Function]:
        found, data = self._message(_FUNCTION, place)
        for _, start, end in found.get(11, ()):
            self._attribute((data, start, end))
        inputs = [Value(data[start:end], None, True) for _, start, end in found.get(4, ())]
        name, domain, overload = (_bytes(data, found, number) for number in (1, 10, 13))
        body = Graph(self._nodes_of(data, found.get(7, ())), [], inputs, [])
        return (domain_name(domain), name, overload), Function(body, self._opsets(data, found.get(9, ())))

    def _numbers(self, data: Buffer, spans: Iterable[Span]) -> list[int]:
        out: list[int] = []
        for wire, start, end in spans:
            self._left -= end - start
            if self._left < 0:
                raise WireError(f"it has more than {_MAX_FIELDS} numbers")
            out += read_ints(data, wire, start, end)
        return out

    def _opsets(self, data: Buffer, spans: Iterable[Span]) -> dict[bytes, int]:
        out: dict[bytes, int] = {}
        for _, start, end in spans:
            found, inner = self._message(_OPSET, (data, start, end))
            domain = domain_name(_bytes(inner, found, 1))
            if domain in out:
                raise WireError(f"the version of the domain {text(domain)} appears twice")
            out[domain] = _number(inner, found, 2) or 0
        return out


def domain_name(domain: bytes) -> bytes:
    """Return the one name of a domain: ONNX's own has two."""
    return b"" if domain == b"ai.onnx" else domain


def text(name: bytes) -> str:
    """Return a name of the file in quotes, for a message."""
    return repr(name[:60].decode(errors="backslashreplace"))


def _bytes(data: Buffer, found: dict[int, list[Span]], number: int) -> bytes:
    spans = found.get(number)
    return data[spans[0][1] : spans[0][2]] if spans else b""


def _number(data: Buffer, found: dict[int, list[Span]], number: int) -> int | None:
    spans = found.get(number)
    return read_ints(data, *spans[0])[-1] if spans else None
