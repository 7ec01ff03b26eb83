"""Facts of the format are spelled in one place: looked for in the syntax tree of all three packages.

Each exception has a reason, and one that is no longer needed fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from coda_runtime.format.parts import IDS, IMAGE, LATENT, PARTS
from coda_runtime.format.precision import PRECISIONS

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime/coda_runtime", "export/coda_export", "coda_deploy")

SPELLS_PRECISIONS = {
    "coda_runtime/format/precision.py": "the table",
    "coda_export/folding/precision.py": "how graphs are folded into each",
    "coda_runtime/machine/processors.py": "a feature of ARM processors, as Linux names it",
    "coda_runtime/backends/ptx/kernel_set.py": "Triton's name of a kernel argument's type",
    "coda_runtime/backends/ptx/backend.py": "Triton's name of a kernel argument's type",
    "coda_export/kernels/compile.py": "Triton's name of a kernel argument's type",
}
NAMES_LOW_PRECISIONS = {
    "coda_deploy/train/sections.py": "what a training computes in, and saves its weights as",
    "coda_deploy/demo/results.py": "what the demo shows beside fp32",
}
SPELLS_TENSORS = {
    "coda_runtime/format/parts.py": "the table",
    "coda_runtime/parity/samples.py": "arrays of parity.fp32.npz",
    "coda_runtime/backends/ptx/plan.py": "buffers of the kernels",
    "coda_runtime/backends/ptx/session.py": "buffers of the kernels",
    "coda_runtime/hub/card.py": "rows of a table that is read by people",
    "coda_runtime/bulk/folder.py": "a column, and a count of images in words",
}
LISTS_PARTS = {
    "coda_runtime/format/parts.py": "the table",
    "coda_runtime/bench/bars.py": "colours of a chart",
    "coda_deploy/demo/timing.py": "the function of the tokenizer in PyTorch that each stands beside",
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    """(path from the folder of its package, syntax tree) of each file."""
    for package in PACKAGES:
        folder = ROOT / package
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(folder.parent).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


TREES = dict(trees())
STRINGS = {
    path: {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for path, tree in TREES.items()
}


def imported(tree: ast.Module) -> set[str]:
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("format.precision")
        for alias in node.names
    }


def test_all_packages_are_looked_through() -> None:
    assert {path.partition("/")[0] for path in TREES} == {"coda_runtime", "coda_export", "coda_deploy"}
    assert len(TREES) > 250


def test_names_of_precisions() -> None:
    assert {path for path, found in STRINGS.items() if found & PRECISIONS.keys()} == SPELLS_PRECISIONS.keys()


def test_nobody_asks_whether_a_precision_is_a_low_one_by_name() -> None:
    """An exception of a precision is a field of its entry."""
    constants = {name.upper() for name in PRECISIONS} - {"FP32"}
    assert {path for path, tree in TREES.items() if imported(tree) & constants} == NAMES_LOW_PRECISIONS.keys()


def test_names_of_the_tensors_of_parts() -> None:
    """Each alone is a word of other formats too, a column or a key: two in one file are the table once more."""
    tensors = {IMAGE.name, LATENT.name, IDS.name}
    assert {path for path, found in STRINGS.items() if len(found & tensors) > 1} == SPELLS_TENSORS.keys()


def test_lists_of_the_parts() -> None:
    assert {path for path, found in STRINGS.items() if found >= PARTS.keys()} == LISTS_PARTS.keys()


@pytest.mark.parametrize("source", ["x = {'image': 1, 'ids': 2}", "f('bf16')", "if a.precision == 'fp16': pass"])
def test_a_copy_would_be_found(source: str) -> None:
    found = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert found & PRECISIONS.keys() or len(found & {IMAGE.name, LATENT.name, IDS.name}) > 1
