"""Print what a module of TensorRT's bindings has, as JSON: `python describe.py tensorrt_bindings`."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Any


def signature(function: Any) -> str:
    """What pybind11 wrote of it; of a Python function the same form."""
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters.values()
        given = [f"{p.name}: object" + ("" if p.default is p.empty else " = ...") for p in parameters]
        return f"{function.__name__}({', '.join(given)}) -> object"
    return function.__doc__ or ""


def describe(kind: type, full: str, classes: dict[str, Any]) -> None:
    entry: dict[str, dict[str, Any]] = {"methods": {}, "properties": {}, "values": {}, "classes": {}}
    classes[full] = entry
    members = getattr(kind, "__members__", {})
    entry["values"] = {name: int(value) for name, value in members.items()}
    for name in dir(kind):
        if (name.startswith("_") and name != "__init__") or name in members:
            continue
        member = inspect.getattr_static(kind, name)
        value = getattr(kind, name)
        if isinstance(value, type):
            entry["classes"][name] = f"{full}.{name}"
            describe(value, f"{full}.{name}", classes)
        elif isinstance(member, property):
            entry["properties"][name] = [(member.fget.__doc__ or "") if member.fget else "", member.fset is not None]
        elif callable(value):
            entry["methods"][name] = signature(value)
        else:
            entry["properties"][name] = ["", False]


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    classes: dict[str, Any] = {}
    public = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    own: dict[str, dict[str, Any]] = {"methods": {}, "properties": {}, "values": {}, "classes": {}}
    for name, value in public.items():
        if isinstance(value, type):
            own["classes"][name] = name
            describe(value, name, classes)
        elif inspect.isroutine(value):
            # A function has no object before its parameters, where a method's signature has one.
            own["methods"][name] = signature(value).replace(f"{name}(", f"{name}(module: object, ", 1)
    sys.stdout.write(json.dumps({"version": module.__version__, "classes": {"": own, **classes}}))


if __name__ == "__main__":
    main()
