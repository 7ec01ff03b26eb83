"""What an ONNX file says before an engine library reads it: self-contained, known operators, whole.

An ONNX file is a protobuf message. This walks its fields as far as graphs, nodes, functions and tensors go, jumps
over what they hold by its length, and refuses what a bundle's graph may not be: weights in other files (an engine
library would open whatever path stands there), operators of unknown domains, nodes that bring code in by the back door,
and bytes that are no ONNX model. The numbers are the field numbers of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ..errors import ArtifactError, one_line
from ..io.protobuf_wire import LENGTH_DELIMITED, VARINT, Buffer, WireError, read_fields
from ..io.regular_files import open_regular

DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft"})
"""Of operators: the standard ones, and those that onnxruntime and the optimisers around it add."""

_CODE = {
    b"EPContext": "an engine",
    b"PythonOp": "a call of Python",
    b"PythonOpGrad": "a call of Python",
    b"TritonOp": "a call of Python",
    b"ATen": "a call of PyTorch",
    b"ATenGrad": "a call of PyTorch",
}
"""Operators of com.microsoft that no check here covers; all but the first are in builds of onnxruntime for training."""

_MAX_FIELDS = 1_000_000  # two or three seconds of walking; a graph of a tokenizer has some thousands
_MAX_DEPTH = 64  # messages in each other; a graph in a graph is three
_COPIED = 1 << 16  # messages up to this size are walked in memory, larger ones in the file

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)
_INSIDE: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
"""Which fields of a message hold which message, as far as anything that matters may lie in it."""

_NAMES = {_NODE: (4, 7), _FUNCTION: (1, 10)}
"""The fields of (name, domain): a node's operator, and what a function defines."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def check_graph(path: Path, read: bytes | None = None) -> None:
    """Raise ArtifactError unless a file is a self-contained ONNX model of known operators. Takes milliseconds.

    `read` are the file's bytes where somebody has read them: then these are looked at, and the file is not opened.
    That is no proof that an engine library reads it safely, nor that it computes what its part promises.
    """
    # By this suffix onnxruntime reads a format of its own, which nobody has looked at here.
    if path.suffix.lower() == ".ort":
        _reject(path, "is named as onnxruntime's own format; expected an ONNX file")
    try:
        if read is not None:
            if not read:
                raise WireError("it is empty")
            _Walk(path).model(read)
            return
        with open_regular(path) as file:
            if file.seek(0, 2) == 0:
                raise WireError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Walk(path).model(data)
    except WireError as error:
        raise ArtifactError(f"{path} is not an ONNX model: {error}; download or export the bundle again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({one_line(error)}); check its permissions") from error


class _Walk:
    """One pass over a model, on a list of what is still to be looked at: no recursion, for a file sets its depth."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = _MAX_FIELDS
        self._called: set[tuple[bytes, bytes]] = set()
        self._defined: set[tuple[bytes, bytes]] = set()

    def model(self, data: Buffer) -> None:
        todo: list[tuple[int, Buffer, int, int, int]] = [(_MODEL, data, 0, len(data), 0)]
        graphs = 0
        while todo:
            kind, buffer, start, end, depth = todo.pop()
            if depth > _MAX_DEPTH:
                raise WireError(f"its messages are nested more than {_MAX_DEPTH} deep")
            if end - start <= _COPIED and not isinstance(buffer, bytes):
                buffer, start, end = buffer[start:end], 0, end - start
            graphs += kind == _GRAPH
            todo += [
                (inner, buffer, at, stop, depth + 1) for inner, at, stop in self._message(kind, buffer, start, end)
            ]
        if graphs == 0:
            raise WireError("it holds no graph")
        for domain, name in sorted(self._called - self._defined):
            if domain not in DOMAINS:
                _reject(
                    self._path,
                    f"uses {_text(name)} of the domain {_text(domain)}; expected ONNX's own operators, those of "
                    "com.microsoft, or functions that the file defines",
                )

    def _message(self, kind: int, data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Check one message, and yield (kind, start, end) of those inside it."""
        inside, named = _INSIDE[kind], _NAMES.get(kind, (-1, -1))
        names: dict[int, bytes] = {}
        for field, wire, at, stop in read_fields(data, start, end, "ONNX"):
            self._left -= 1
            if self._left < 0:
                raise WireError(f"it has more than {_MAX_FIELDS} fields")
            if field in inside:
                _expect(wire == LENGTH_DELIMITED, field, wire)
                yield inside[field], at, stop
            elif field in named:
                _expect(wire == LENGTH_DELIMITED, field, wire)
                if field in names:  # readers differ in which of two they believe
                    raise WireError(f"a name (field {field}) appears twice in one message")
                names[field] = data[at:stop]
            elif kind == _TENSOR and field in (_EXTERNAL_DATA, _DATA_LOCATION):
                _expect(wire == (LENGTH_DELIMITED if field == _EXTERNAL_DATA else VARINT), field, wire)
                # Readers cut the number to 32 bits or fewer, so that anything but 0 may come to mean "external".
                if field == _EXTERNAL_DATA or any(byte & 0x7F for byte in data[at:stop]):
                    _reject(
                        self._path, "keeps weights in another file (external data); expected one self-contained file"
                    )
        if kind in _NAMES:
            name, domain = (names.get(field, b"") for field in named)
            (self._called if kind == _NODE else self._defined).add((domain, name))
            if name in _CODE:
                _reject(
                    self._path,
                    f"holds a node {name.decode()}, {_CODE[name]} that no check here covers; expected plain ONNX",
                )


def _expect(fits: bool, field: int, wire: int) -> None:
    if not fits:
        raise WireError(f"field {field} has wire type {wire}")


def _text(name: bytes) -> str:
    return repr(name[:60].decode(errors="backslashreplace"))


def _reject(path: Path, what: str) -> NoReturn:
    raise ArtifactError(f"{path} {what}; export it again, and do not load it from a source that you do not trust")
