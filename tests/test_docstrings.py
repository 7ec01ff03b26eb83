"""A docstring of a function says what it does, in the imperative: looked for in the syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime/coda_runtime", "coda_deploy", "export/coda_export")

# A verb that is missing here is added in its place; a word that is also a noun only where code uses it as a verb.
LISTED = """
Adapt Add Answer Apply Ask Attend Average Begin Blur Bring Build Call Change Check Choose Close Combine
Compare Compile Complete Compute Convert Copy Count Cut Decode Decorate Describe Divide Do Double Download Downsample
Draw Drop Embed Encode End Explain Export Fetch Fill Find Fit Fold Forget Format Free Give Go Guard Hash Hide
Hold Import Interleave Join Judge Keep Lay Leave Let List Load Look Make Map Measure Merge Minimise Mix Move
Name Normalise Note Open Pack Parse Pass Paste Pool Print Put Quantize Queue Raise Rank Read Record Refuse
Remove Render Repeat Replace Report Resample Reshape Restore Return Run Say Score Search Send Serve Set Settle
Show Silence Split Start Step Stop Store Switch Take Tell Time Trace Train Try Turn Undo Unlock Unpack Upload
Upsample Verify Wait Warm Watch Wrap Write Yield
"""
VERBS = frozenset(LISTED.split())
# Their docstrings name a value, not an action.
NOUNS = {"property", "cached_property", "functools.cached_property", "setter"}


def is_exempt(function: ast.FunctionDef | ast.AsyncFunctionDef, docstring: str) -> bool:
    decorators = {ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in function.decorator_list}
    return (
        (function.name.startswith("__") and function.name.endswith("__"))
        or docstring.startswith("See ")  # an override, which points at what it overrides
        or any(name in NOUNS or name.endswith(".setter") for name in decorators)
        or any(name.startswith("click.") for name in decorators)  # the group: its docstring is the help's headline
    )


def docstrings(package: str) -> Iterator[tuple[str, str]]:
    """(file:line, docstring) of every function and method that has to begin with a verb."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring and not is_exempt(node, docstring):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", docstring


def first_word(docstring: str) -> str:
    found = re.match(r"[A-Za-z]+(?=[\s.,:])", docstring)
    return found[0] if found else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_docstring_of_a_function_begins_with_an_imperative(package: str) -> None:
    found = list(docstrings(package))
    assert len(found) > 50  # looked through
    assert [f"{where}: {text.splitlines()[0]}" for where, text in found if first_word(text) not in VERBS] == []


def test_verbs_are_sorted() -> None:
    assert LISTED.split() == sorted(VERBS)
