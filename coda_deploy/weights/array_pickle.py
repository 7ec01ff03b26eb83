"""A reader of pickles that hold dictionaries of NumPy arrays, and nothing else.

This project reads and writes no pickle, with this one exception: LPIPS's networks are published, in a package that
anybody can download, only as two pickles of arrays. The module `pickle` is not used even here, for it imports and calls
what a file names. `pickletools` takes a file apart without running it; the few instructions that dictionaries of arrays
consist of are carried out below, on inert objects, and every other instruction or name is refused by its name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_deploy.errors import WeightsError

Array = NDArray[np.generic]
# A network of a hundred layers has some 3000 instructions.
MAX_INSTRUCTIONS = 100_000
MAX_ARRAYS = 1000
# Paths are made of keys: without these bounds a dictionary that holds itself under a long key would fill the memory.
MAX_KEY, MAX_DEPTH = 100, 8
_RECONSTRUCT, _NDARRAY, _DTYPE = "numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"
_NAMES = {
    _RECONSTRUCT: _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,  # NumPy 2 calls it so
    _NDARRAY: _NDARRAY,
    _DTYPE: _DTYPE,
}
_FLOATS = frozenset({"f2", "f4", "f8"})
_PUSHED = frozenset(
    {"BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_INSTRUCTIONS = {opcode.code: opcode for opcode in pickletools.opcodes}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A name that the file mentions; it stands for nothing that could be called."""

    name: str


@dataclass
class _Type:
    """An element type, as "f4", and its byte order, "<" or ">"."""

    code: str
    order: str = "<"


@dataclass
class _Pending:
    """An array whose contents follow."""

    array: Array | None = None


class _Mark:
    """Where the arguments of the next instruction begin."""


class _Rejected(Exception):  # noqa: N818 - it never leaves this file
    """What was found instead of dictionaries of arrays."""


def read_arrays(data: bytes, source: str) -> dict[str, Array]:
    """Return the floating-point arrays of a pickle by their path in its nested dictionaries, joined by "/".

    Args:
        data: the pickle's bytes, protocol 3 or 4; no array can be larger than they are.
        source: what the pickle is called, for messages.

    Raises:
        WeightsError: the data are cut, or hold anything but dictionaries of arrays. Nothing that they name is
            imported, called or built.
    """
    try:
        return _flat(_run(data))
    except _Rejected as error:
        raise WeightsError(
            f"{source} was rejected, and nothing in it was run: it holds {error}; expected only dictionaries "
            "of floating-point NumPy arrays. Take the file from the package that `coda weights` names"
        ) from error
    except (ValueError, IndexError, KeyError, UnicodeError, OverflowError) as error:
        raise WeightsError(
            f"{source} is truncated, damaged, or not a pickle of NumPy arrays ({type(error).__name__}); take the file "
            "from the package that `coda weights` names"
        ) from error


def _run(data: bytes) -> Any:
    machine, stream = _Machine(), BytesIO(data)
    for _ in range(MAX_INSTRUCTIONS):
        instruction = _INSTRUCTIONS[stream.read(1).decode("latin-1")]
        if instruction.name == "STOP":
            return machine.pop()
        # Before its argument is read: some text takes decoding.
        if not machine.knows(instruction.name):
            raise _Rejected(f"the instruction {instruction.name}")
        if instruction.name == "GLOBAL":  # pickletools would take backslashes for escapes, which pickle does not
            machine.step("GLOBAL", [_line(stream), _line(stream)])
        else:
            machine.step(instruction.name, instruction.arg.reader(stream) if instruction.arg else None)
    raise _Rejected(f"more than {MAX_INSTRUCTIONS:,} instructions")


def _line(stream: BytesIO) -> str:
    text = stream.readline().decode("ascii")
    if not text.endswith("\n"):
        raise ValueError("the line does not end")
    return text[:-1]


class _Machine:
    """Carries out the instructions on a stack of plain values and the inert objects above."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "MARK": lambda _: self._stack.append(_Mark()),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "BINGET": lambda index: self._stack.append(self._memo[index]),
            "LONG_BINGET": lambda index: self._stack.append(self._memo[index]),
            "GLOBAL": lambda names: self._name(*names),
            "STACK_GLOBAL": lambda _: self._name(*reversed([self.pop(), self.pop()])),
            "TUPLE": lambda _: self._stack.append(tuple(self._marked())),
            "SETITEM": lambda _: self._set([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda _: self._set(self._marked()),
            "REDUCE": lambda _: self._make(),
            "BUILD": lambda _: self._fill(),
        }

    def knows(self, name: str) -> bool:
        return name in _PUSHED or name in _CONSTANTS or name in _TUPLES or name in self._steps

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple([self.pop() for _ in range(_TUPLES[name])][::-1]))
        else:
            self._steps[name](argument)

    def pop(self) -> Any:
        return self._stack.pop()

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Rejected("a name that is not text")
        found = f"{module}.{name}"
        if found not in _NAMES:
            raise _Rejected(f"the name {_quoted(found)}")
        self._stack.append(_Name(_NAMES[found]))

    def _marked(self) -> list[Any]:
        values: list[Any] = []
        while not isinstance(value := self.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        keys = values[::2]
        if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, str) for key in keys):
            raise _Rejected("a dictionary whose keys are not text")
        if any(len(key) > MAX_KEY for key in keys):
            raise _Rejected(f"a key of more than {MAX_KEY} characters")
        target.update(zip(keys, values[1::2], strict=True))

    def _make(self) -> None:
        arguments, made = self.pop(), self.pop()
        match made, arguments:
            case _Name(name=name), (_Name(name=kind), (0,), b"b") if (name, kind) == (_RECONSTRUCT, _NDARRAY):
                self._stack.append(_Pending())
            case _Name(name=name), (str(code), False, True) if name == _DTYPE and code in _FLOATS:
                self._stack.append(_Type(code))
            case _Name(name=name), (str(code), *_) if name == _DTYPE:
                raise _Rejected(f"an array of element type {_quoted(code)}")
            case _:
                raise _Rejected(f"a call of {_quoted(getattr(made, 'name', type(made).__name__))} with other arguments")

    def _fill(self) -> None:
        state, target = self.pop(), self._stack[-1]
        match target, state:
            case _Type(), (3, "<" | ">" as order, None, None, None, -1, -1, 0):
                target.order = order
            case _Pending(array=None), (1, tuple(shape), _Type() as kind, bool(columns_first), bytes(data)):
                target.array = _array(shape, kind, columns_first, data)
            case _:
                raise _Rejected("an array in another form than NumPy writes")


def _array(shape: tuple[Any, ...], kind: _Type, columns_first: bool, data: bytes) -> Array:
    if not all(type(side) is int and side >= 0 for side in shape):
        raise _Rejected("an array whose shape is not whole numbers")
    # frombuffer and reshape take no memory, and fail where the bytes do not fill the shape.
    flat = np.frombuffer(data, np.dtype(kind.order + kind.code))
    return flat.reshape(shape, order="F" if columns_first else "C")


def _flat(top: Any) -> dict[str, Array]:
    """Return all arrays below by their path; dictionaries that hold themselves end at the bound of depth."""
    found: dict[str, Array] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), top)]
    for _ in range(MAX_ARRAYS):
        if not waiting:
            return found
        path, value = waiting.pop()
        if isinstance(value, dict):
            if value and len(path) >= MAX_DEPTH:
                raise _Rejected(f"dictionaries more than {MAX_DEPTH} deep")
            if len(value) + len(waiting) > MAX_ARRAYS:
                break
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, _Pending) and value.array is not None and path:
            found["/".join(path)] = value.array
        else:
            raise _Rejected(f"something other than dictionaries of arrays ({type(value).__name__.lstrip('_')})")
    raise _Rejected(f"more than {MAX_ARRAYS} arrays")


def _quoted(text: str) -> str:
    return repr(text[:80])
