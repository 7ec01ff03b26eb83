"""Every message of an error that coda raises on purpose, found in the source, and the page that lists them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import coda_deploy.errors
import coda_runtime.errors
from docs.generator.commands import escaped

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime/coda_runtime", "export/coda_export", "coda_deploy")
CLASSES = (*coda_runtime.errors.__all__, *coda_deploy.errors.__all__)
REQUESTS = "Requests to a server"
# Errors that never come out as they are: what they say is part of another's message, or a server's answer.
INNER = {"RefusedError": "ArtifactError", "RequestError": REQUESTS, "QueueFullError": REQUESTS}
# What makes an error of the text it is given, in whatever module it is called.
HELPERS = {"fail": "ManifestError"}
VARIES = "..."

# What to do about a message that does not say it by itself, for its readers know what was expected from it alone.
CURES = {
    "ArtifactError": "export the bundle again; do not load it from a source that you do not trust",
    "BackendError": "`coda doctor` tells what is installed and what conflicts",
    "BuildError": "build with other options, or on the target machine",
    "BundleError": "`coda inspect` shows what the bundle has",
    "BundleNotFoundError": "give the folder that `coda export` wrote",
    "ChecksumError": "copy, download or export the bundle again",
    "ClosedError": "load the bundle again, in each process",
    "CodaError": "what the message says",
    "ConfigError": "correct the configuration: `coda train --show-config` prints a whole one",
    "DataError": "check `--data`",
    "DeviceError": "`coda doctor` tells which devices are here",
    "DeviceMemoryError": "a smaller batch, or another device",
    "DivergedError": "a lower `optim.lr`",
    "EngineMismatchError": "`coda build` on this machine",
    "FormatVersionError": "upgrade coda-runtime",
    "HubError": "check the name, the network and `HF_TOKEN`",
    "ImageError": "convert the image, or leave it out with `--skip-bad`",
    "InputError": "pass what the message expects",
    "ManifestError": "export the bundle again, or correct the manifest",
    "MissingDependencyError": "the line of pip at the message's end",
    "OutputError": "another `--out`",
    "ParityError": "`coda verify --layers` names the layer that is off",
    "StoppedError": "the same command with `--resume`",
    "TokenError": "decode with the bundle that the tokens were made with",
    "ModuleNeededError": "give the module that the VAE is of",
    "WeightsError": "take the weights again from where they come",
    REQUESTS: "correct the request; the server's log has it by its id",
}
_HEAD = f"""# Every message

Search this page, or the site, for the words of a message: leave out names and numbers, for which `{VARIES}` stands.
Each error is listed under its class with what to do about it; [Troubleshooting](../troubleshooting.md) has the frequent
ones with the why. The list is made from the source, and a test holds it complete.
"""


@dataclass(frozen=True)
class Message:
    """What one place of the source says: its error's class, the text with `...` for what varies, the file."""

    error: str
    text: str
    file: str

    @property
    def cure(self) -> str:
        """The message's own way out, behind its last semicolon; else its class's."""
        said, _, way = self.text.rpartition("; ")
        return way if said and len(way.replace(VARIES, "").split()) > 1 else CURES[self.error]


def page() -> str:
    """Return the page: a section for each class, a row for each message."""
    lines = [_HEAD]
    for error in [*CLASSES, REQUESTS]:
        found = [of for of in messages() if of.error == error]
        about = "serving.md" if error == REQUESTS else f"troubleshooting.md#{error.lower()}"
        lines += [f"## {error}", "", f"[More about it](../{about}).", "", "| message | way out |", "| --- | --- |"]
        lines += [f"| {_cell(_said(of))} | {escaped(of.cure)} |" for of in found]
        lines.append("")
    return "\n".join(lines)


def _said(message: Message) -> str:
    return message.text.removesuffix(f"; {message.cure}")


def _cell(text: str) -> str:
    return escaped(text.replace("`", "'"))


@cache
def messages() -> list[Message]:
    """Return every message, by class and then by its words; a text that several places say comes once."""
    found: dict[tuple[str, str], Message] = {}
    for path, tree in _trees():
        for error, call, function in _made(tree):
            for text in _spoken(call, function):
                found.setdefault((error, text), Message(error, text, path))
    order = [*CLASSES, REQUESTS]
    return sorted(found.values(), key=lambda of: (order.index(of.error), of.text.lstrip(f"{VARIES} `'").lower()))


def silent() -> list[str]:
    """Return the places, as "file: code", where such an error is made of no text that can be found."""
    return [
        f"{path}: {ast.unparse(call)}"
        for path, tree in _trees()
        for _, call, function in _made(tree)
        if not list(_spoken(call, function))
    ]


@cache
def _trees() -> list[tuple[str, ast.Module]]:
    files = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


@cache
def _functions() -> dict[str, ast.FunctionDef]:
    """Return the functions of all modules by name, whose results may be a message."""
    nodes = (node for _, tree in _trees() for node in ast.walk(tree))
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def _made(tree: ast.Module) -> Iterator[tuple[str, ast.Call, ast.AST]]:
    """Yield (class, call, the function around it) of each place that makes an error: by its class, or by a helper."""
    makers = {name: name for name in CLASSES} | INNER | HELPERS | _helpers(tree)
    around: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):  # outer ones come first
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            around |= dict.fromkeys(ast.walk(node), node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            name = "fail" if isinstance(node.func, ast.Attribute) and node.func.attr == "_fail" else name
            function = around.get(node, tree)
            makers_here = makers | _given(function)
            if name in makers_here and not (isinstance(function, ast.FunctionDef) and function.name in _helpers(tree)):
                yield makers_here[name], node, function


def _given(function: ast.AST) -> dict[str, str]:
    """Return {name: class} of a function's arguments that are an error's class: `error: type[InputError]`."""
    if not isinstance(function, ast.FunctionDef):
        return {}
    named = [(of.arg, ast.unparse(of.annotation)) for of in function.args.args if of.annotation is not None]
    found = {name: re.match(r"type\[(\w+)\]", kind) for name, kind in named}
    return {name: match[1] for name, match in found.items() if match is not None and match[1] in CLASSES}


def _helpers(tree: ast.Module) -> dict[str, str]:
    """Return {name: class} of a module's own functions that raise an error of the text that they are given."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "_fail":
            names = [of.func.id for of in ast.walk(node) if isinstance(of, ast.Call) and isinstance(of.func, ast.Name)]
            if known := [name for name in names if name in CLASSES]:
                found[node.name] = known[0]
    return found


def _spoken(call: ast.Call, function: ast.AST) -> Iterator[str]:
    for argument in call.args:
        for text in _texts(argument, function):
            if len(text.replace(VARIES, "").split()) > 1:
                yield text


def _texts(node: ast.expr, function: ast.AST, depth: int = 0) -> list[str]:
    """Return what an expression may say: texts, both sides of a choice, a variable's and a function's; else nothing."""
    if depth > 3:
        return []
    if isinstance(node, ast.Constant):
        return [_one_line(node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        plain = _one_line("".join(map(_part, node.values)))
        if len(plain.replace(VARIES, "").split()) > 1:
            return [plain]
        parts = [of.value for of in node.values if isinstance(of, ast.FormattedValue)]
        return [text for part in parts for text in _texts(part, function, depth + 1)]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, function, depth), *_texts(node.orelse, function, depth)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (_texts(side, function, depth) or [VARIES] for side in (node.left, node.right))
        return [a + b for a in left for b in right]
    if isinstance(node, ast.Name):
        given = (
            of.value for of in ast.walk(function) if isinstance(of, ast.Assign | ast.NamedExpr) and _is_of(of, node)
        )
        return [text for value in given for text in _texts(value, function, depth + 1)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _functions():
        called = _functions()[node.func.id]
        given = (of.value for of in ast.walk(called) if isinstance(of, ast.Return) and of.value is not None)
        return [text for value in given for text in _texts(value, called, depth + 1)]
    return []


def _is_of(assignment: ast.Assign | ast.NamedExpr, name: ast.Name) -> bool:
    targets = assignment.targets if isinstance(assignment, ast.Assign) else [assignment.target]
    return any(isinstance(target, ast.Name) and target.id == name.id for target in targets)


def _part(node: ast.expr) -> str:
    """Return a part of an f-string: its text, a count's noun behind what varies, or that something varies."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    call = node.value if isinstance(node, ast.FormattedValue) else None
    if isinstance(call, ast.Call) and ast.unparse(call.func) == "count":
        noun = call.args[-1]
        many = str(noun.value) + "s" * (len(call.args) == 2) if isinstance(noun, ast.Constant) else ""
        return f"{VARIES} {many}".rstrip()
    return VARIES


def _one_line(text: str) -> str:
    return re.sub(r"(\.\.\.)(\.\.\.)+", VARIES, " ".join(text.split()))
