"""The kernels and their table as files of a bundle."""

from __future__ import annotations

from pathlib import Path

from coda_export.folding.search import FoldedSearch
from coda_export.kernels.compile import DEFAULT_TARGET, compile_quantizer
from coda_export.kernels.tables import search_tables
from coda_runtime.format.bundle import describe_file
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parts import QUANTIZER
from coda_runtime.format.precision import FP32
from coda_runtime.format.spec import Spec

SEARCH_FILE = "search.fp32.npz"


def write_search(folder: Path, search: FoldedSearch) -> Artifact:
    """Write the search table, and return its artifact: part "search", format "npz". Raises OutputError."""
    search_tables(search).save(folder / SEARCH_FILE)
    return Artifact("search", "npz", FP32, SEARCH_FILE, *describe_file(folder, SEARCH_FILE))


def write_kernels(folder: Path, search: FoldedSearch, spec: Spec, target: str = DEFAULT_TARGET) -> Artifact:
    """Compile and write the kernels, and return their artifact: part "quantizer", format "ptx".

    Takes seconds. The file depends on the tokenizer's sizes only, so it says nothing about its weights.

    Raises InputError for an unknown target, MissingDependencyError without Triton, BuildError where compiling fails.
    """
    ptx, kernels = compile_quantizer(spec, search_tables(search), targets=(target,))[target]
    file = f"quantizer.fp32.{target}.ptx"
    (folder / file).write_bytes(ptx)
    return Artifact(QUANTIZER.name, "ptx", FP32, file, *describe_file(folder, file), engine=kernels.to_json())
