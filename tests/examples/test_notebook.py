"""The notebook runs from top to bottom, cell by cell, and holds no outputs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "vae_to_tokens.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (read["nbformat"], read["metadata"]["language_info"]["name"]) == (4, "python")
    return list(read["cells"])


def code(cells: list[dict[str, Any]]) -> list[str]:
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_it_holds_no_outputs(cells: list[dict[str, Any]]) -> None:
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def shown(source: str) -> str:
    """The cell as Jupyter runs it: what its last line is worth is shown, and must be a picture here."""
    *_, last = ast.parse(source).body
    if not isinstance(last, ast.Expr) or source.rstrip().splitlines()[last.lineno - 1].startswith("print"):
        return source
    lines = source.splitlines()
    return "\n".join([*lines[: last.lineno - 1], "_ = (", *lines[last.lineno - 1 :], ")"])


@pytest.mark.slow
def test_it_runs(cells: list[dict[str, Any]], tiny_folder: Path, tmp_path: Path) -> None:
    """On a tiny tokenizer in place of the sample, which takes longer."""
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join(map(shown, code(cells))) + "\nassert not bundle.exists()\n", encoding="utf-8")
    settings = {"CODA_TOKENIZER": str(tiny_folder), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=600, env={**os.environ, **settings}
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("latent [4, ")
    assert any(line.startswith("encode.fp32.onnx") for line in said)
    assert said[-1].startswith("no-such-file.jpg there is no image")
