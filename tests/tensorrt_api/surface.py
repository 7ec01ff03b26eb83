"""The classes of TensorRT's bindings as they describe themselves: methods with their parameters, properties, enums.

The bindings are asked in a process of their own. TensorRT-RTX comes with its libraries; TensorRT's cannot be installed
without a GPU's CUDA, so that stubs take their place, over which its bindings import (tests.stub_libraries). Bindings of
other releases than the one that is installed are asked from a folder.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import stub_libraries

TENSORRT, RTX, LEAN = "tensorrt_bindings", "tensorrt_rtx_bindings", "tensorrt_lean_bindings"
MODULE = ""
"""The name of the module among its classes: what has its functions."""


@dataclass(frozen=True)
class Parameter:
    """`type` is a class of the bindings, "list[Class]", or what Python calls it."""

    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Signature:
    """One way to call a method, without its `self`. `returns` is as `Parameter.type`."""

    parameters: tuple[Parameter, ...]
    returns: str


@dataclass(frozen=True)
class Class:
    """`values` are an enum's members. A property has the type of its value, and whether it can be set."""

    methods: Mapping[str, tuple[Signature, ...]]
    properties: Mapping[str, tuple[str, bool]]
    values: Mapping[str, int]
    classes: Mapping[str, str]
    """Those inside it, by their names there, and their full names."""


@dataclass(frozen=True)
class Surface:
    """All of it, by name: "ICudaEngine", "ILogger.Severity"."""

    version: str
    classes: Mapping[str, Class]


@functools.cache
def surface(module: str) -> Surface:
    """Ask the installed bindings; the test is skipped where they, or a compiler for the stubs, are not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{module} is not installed")
    return surface_of(module, Path(next(iter(spec.submodule_search_locations))).parent)


def surface_of(module: str, site: Path) -> Surface:
    """Ask the bindings that are in the folder `site`."""
    with tempfile.TemporaryDirectory() as folder:
        variables = dict(os.environ)
        if module != RTX:
            if (reason := stub_libraries.lacks()) is not None:
                pytest.skip(reason)
            binaries = (site / module).glob("*.so")
            variables["LD_LIBRARY_PATH"] = str(stub_libraries.build(Path(folder), binaries))
            variables["PYTHONPATH"] = str(site)
        command = [sys.executable, "-W", "error", str(Path(__file__).with_name("describe.py")), module]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{module} does not import on its own:\n{done.stderr}"
    told = json.loads(done.stdout)
    return Surface(told["version"], {name: _class(entry) for name, entry in told["classes"].items()})


def _class(entry: Mapping[str, Mapping[str, object]]) -> Class:
    methods = {name: signatures(name, str(text)) for name, text in entry["methods"].items()}
    properties = {}
    for name, told in entry["properties"].items():
        text, writable = told if isinstance(told, list) else ("", False)
        found = signatures("", str(text))
        properties[name] = (found[0].returns if found else "", bool(writable))
    values = {name: int(str(value)) for name, value in entry["values"].items()}
    return Class(methods, properties, values, {name: str(full) for name, full in entry["classes"].items()})


def signatures(name: str, text: str) -> tuple[Signature, ...]:
    """Read what pybind11 writes at the head of a docstring: "name(self: Class, size: int = 1) -> bool", or several."""
    pattern = rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.+)$"
    found = []
    for parameters, returns in re.findall(pattern, text, re.MULTILINE):
        given = [_parameter(part) for part in _split(parameters)]
        found.append(Signature(tuple(given[1:]), _plain(returns)))  # a method's first is the object
    return tuple(found)


def _split(text: str) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _parameter(text: str) -> Parameter:
    declared, _, default = text.partition(" = ")
    name, _, kind = declared.partition(": ")
    return Parameter(name, _plain(kind), bool(default))


def _plain(kind: str) -> str:
    """Return "ICudaEngine" for "tensorrt_bindings.tensorrt.ICudaEngine"; what pybind11 knew by its C++ name alone too.

    The parser's error is declared before its class is.
    """
    kind = re.sub(r"\btensorrt\w*\.tensorrt\w*\.", "", kind.strip())
    return re.sub(r"\bnvonnxparser::I(\w+)", r"\1", kind)
