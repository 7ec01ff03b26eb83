"""What the code takes of TensorRT's objects, read from its source and held to a `Surface`.

A name is followed from where it is assigned: `runtime = trt.Runtime(logger)` is a Runtime, and its method returns what
its signature says. Parameters and attributes, which the code declares as Any, stand in ROOTS.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import coda_runtime
from coda_runtime.backends.tensorrt import (
    backend,
    engine,
    executor,
    inspection,
    kernel_cache,
    library,
    logger,
    messages,
)
from coda_runtime.build import builder, log, memory, options
from tests.tensorrt_api.surface import MODULE, Class, Signature, Surface

_OF_ALL = {"trt": MODULE, "self._trt": MODULE, "library.module": MODULE}
ROOTS: Mapping[ModuleType, Mapping[str, str]] = {
    backend: {"engine.raw": "ICudaEngine"},
    engine: {"raw": "ICudaEngine", "self.raw": "ICudaEngine"},
    executor: dict.fromkeys(("context", "size.context", "plain.context"), "IExecutionContext"),
    inspection: {"engine": "ICudaEngine"},
    kernel_cache: {"config": "IRuntimeConfig", "self._raw": "IRuntimeCache"},
    library: {"module": MODULE},
    logger: {},
    messages: {},
    builder: {
        **{"builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "error": "ParserError"},
        **{"parsed.builder": "Builder", "parsed.network": "INetworkDefinition", "parsed.parser": "OnnxParser"},
    },
    log: {},
    memory: {"network": "INetworkDefinition", "parsed.network": "INetworkDefinition", "tensor": "ITensor"},
    options: {},
}
"""By module: what its names are that nothing in it tells."""


class Value(NamedTuple):
    """What an expression is: an "instance" or a "list" of a class, the "class" itself, a "method" of it; or "plain"."""

    kind: str
    of: str
    method: str = ""


_PLAIN = Value("plain", "a number, a text or another value of Python's")


@dataclass
class Uses:
    """What was found in the source. `absent` are "Class.member", `wrong` calls and values that do not fit.

    `unseen` are expressions that could not be followed and end in a name, of two words or more, that TensorRT has.
    """

    used: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    unseen: set[str] = field(default_factory=set)


def uses(surface: Surface, roots: Mapping[ModuleType, Mapping[str, str]] = ROOTS) -> Uses:
    """Read the modules."""
    found = Uses()
    for module, names in roots.items():
        path = Path(str(module.__file__))
        read(path.read_text(encoding="utf-8"), path.name, {**_OF_ALL, **names}, surface, found)
    return found


def elsewhere(surface: Surface) -> Uses:
    """Read all other modules of the package, whose names tell nothing."""
    found, package = Uses(), Path(str(coda_runtime.__file__)).parent
    for path in sorted(set(package.rglob("*.py")) - {Path(str(module.__file__)) for module in ROOTS}):
        read(path.read_text(encoding="utf-8"), path.relative_to(package).as_posix(), _OF_ALL, surface, found)
    return found


def read(source: str, file: str, names: Mapping[str, str], surface: Surface, found: Uses) -> None:
    """Read one file's source, whose `names` are as in ROOTS, into `found`."""
    kinds = {name: Value("class" if of == MODULE else "instance", of) for name, of in names.items()}
    _Reader(file, kinds, surface, found).visit(ast.parse(source))


class _Reader(ast.NodeVisitor):
    def __init__(self, file: str, roots: Mapping[str, Value], surface: Surface, found: Uses) -> None:
        self._file = file
        self._roots = roots
        self._surface = surface
        self._found = found
        self._names: dict[str, Value] = {}
        members = {name for kind in surface.classes.values() for name in (*kind.methods, *kind.properties)}
        self._distinct = {name for name in members if "_" in name.strip("_")}  # "name" and "shape" are others' as well

    # --- Statements: what a name stands for from then on, in this function ---

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = dict(self._names)
        self.generic_visit(node)
        self._names = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class derived of TensorRT's is called by it: with as many arguments as its own method has."""
        for base in filter(None, map(self._resolve, node.bases)):
            for method in (item for item in node.body if isinstance(item, ast.FunctionDef)):
                if method.name.startswith("_"):
                    continue
                known = self._member(base, method.name)
                taken = len(method.args.args) - 1
                if known is not None and all(len(way.parameters) != taken for way in self._ways(known)):
                    self._wrong(
                        method, f"{base.of}.{method.name} is given {_text(self._ways(known))}, and takes {taken}"
                    )
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        value = self._resolve(node.value)
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                self._set(target, value)
                if self._resolve(target.value) is None:
                    self.visit(target)
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                # With a star among them the numbers may differ: such names stay unknown.
                for name, part in zip(target.elts, node.value.elts, strict=False):
                    if len(target.elts) == len(node.value.elts):
                        self._bind(name, self._resolve(part))
            else:
                self._bind(target, value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target, self._resolve(node.value))

    def visit_For(self, node: ast.For) -> None:
        self._bind(node.target, _item(self._resolve(node.iter)))
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> None:
        for loop in node.generators:
            self._bind(loop.target, _item(self._resolve(loop.iter)))
        self.generic_visit(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.visit_ListComp(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.visit_ListComp(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._resolve(node.value) is None and self._resolve(node) is None and node.attr in self._distinct:
            self._found.unseen.add(f"{self._file}: {ast.unparse(node)}")
        self._resolve(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._resolve(node)
        self.generic_visit(node)

    def _bind(self, target: ast.expr, value: Value | None) -> None:
        if isinstance(target, ast.Name) and value is not None:
            self._names[target.id] = value

    def _set(self, target: ast.Attribute, value: Value | None) -> None:
        owner = self._resolve(target.value)
        if owner is None or self._member(owner, target.attr) is None:
            return
        kind, writable = self._class(owner).properties.get(target.attr, ("", False))
        if not writable:
            self._wrong(target, f"{owner.of}.{target.attr} cannot be set")
        elif not self._fits(value, kind):
            self._wrong(target, f"{owner.of}.{target.attr} is a {kind}, and gets {value}")

    # --- Expressions ---

    def _resolve(self, node: ast.AST) -> Value | None:
        """Return what an expression is, None for what is not TensorRT's."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, self._roots.get(node.id))
        if isinstance(node, ast.Attribute):
            known = self._roots.get(ast.unparse(node))
            owner = self._resolve(node.value)
            return known if known is not None or owner is None else self._member(owner, node.attr)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, ast.Subscript):
            return _item(self._resolve(node.value))
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            self.visit(node)
            element = self._resolve(node.elt)
            return Value("list", element.of) if element is not None else None
        if isinstance(node, ast.List):
            parts = [self._resolve(part.value if isinstance(part, ast.Starred) else part) for part in node.elts]
            return next((Value("list", part.of) for part in parts if part is not None), None)
        return self._resolve(node.value) if isinstance(node, ast.NamedExpr) else None

    def _member(self, owner: Value, name: str) -> Value | None:
        """Return what an attribute is; None for one that is not there, which is told, and for a plain value."""
        if name.startswith("__") or owner.kind not in ("instance", "class"):
            return None
        kind, full = self._class(owner), f"{owner.of}.{name}".lstrip(".")
        self._found.used.add(full)
        if name in kind.methods:
            return Value("method", owner.of, name)
        if name in kind.classes:
            return Value("class", kind.classes[name])
        if name in kind.values:
            return Value("instance", owner.of)
        if name in kind.properties:
            return self._typed(kind.properties[name][0]) or _PLAIN
        self._found.absent.add(full)
        return None

    def _called(self, node: ast.Call) -> Value | None:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
            owner, name = self._resolve(node.args[0]), node.args[1]
            if owner is None:
                return None
            # A name that is known at run time alone is an enum's member here: a test has the tables of these.
            if not isinstance(name, ast.Constant):
                return Value("instance", owner.of)
            return self._member(owner, str(name.value))
        function = self._resolve(node.func)
        if function is None or function.kind not in ("method", "class"):
            return None
        ways = self._ways(function)
        if not any(self._takes(way, node) for way in ways):
            name = f"{function.of}.{function.method}".strip(".")
            self._wrong(node, f"{name} is called {ast.unparse(node)}; it takes {_text(ways)}")
        if function.kind == "class":
            return Value("instance", function.of)
        return next(filter(None, (self._typed(way.returns) for way in ways)), None)

    def _takes(self, way: Signature, node: ast.Call) -> bool:
        """Return whether a call fits a signature: the number of arguments, the keywords, the classes."""
        names = [parameter.name for parameter in way.parameters]
        given = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if len(given) > len(names) or not keywords.keys() <= {*names[len(given) :]}:
            return False
        pairs = [*zip(way.parameters, given, strict=False)]
        by_name = dict(zip(names, way.parameters, strict=True))
        pairs += [(by_name[str(keyword)], value) for keyword, value in keywords.items()]
        needed = {parameter.name for parameter in way.parameters if not parameter.optional}
        spread = len(given) < len(node.args)
        complete = spread or needed <= {parameter.name for parameter, _ in pairs}
        return complete and all(self._fits(self._resolve(value), parameter.type) for parameter, value in pairs)

    def _fits(self, value: Value | None, kind: str) -> bool:
        """Return whether a value may be given for a type; what is not TensorRT's own is not judged."""
        if value in (None, _PLAIN) or kind not in self._surface.classes:
            return True
        return value == Value("instance", kind)

    def _ways(self, function: Value) -> tuple[Signature, ...]:
        return self._class(function).methods[function.method or "__init__"]

    def _class(self, value: Value) -> Class:
        # Of a class that only the other library has, nothing is there.
        return self._surface.classes.get(value.of, Class({}, {}, {}, {}))

    def _typed(self, kind: str) -> Value | None:
        inner = kind.removeprefix("list[").removesuffix("]")
        if inner not in self._surface.classes or not inner:
            return None
        return Value("list" if inner != kind else "instance", inner)

    def _wrong(self, node: ast.AST, text: str) -> None:
        line = f"{self._file}:{getattr(node, 'lineno', 0)}: {text}"
        if line not in self._found.wrong:
            self._found.wrong.append(line)


def _item(value: Value | None) -> Value | None:
    return Value("instance", value.of) if value is not None and value.kind == "list" else None


def _text(ways: tuple[Signature, ...]) -> str:
    return " or ".join(f"({', '.join(parameter.name for parameter in way.parameters)})" for way in ways)
