"""Files of either tool, `coda bench` and `python -m benchmarks.gpu`, read as results and compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line
from ..io.json_fields import describe, parse_json
from .compare import Comparison, Row, compare, compare_cells
from .differences import share_a_tokenizer
from .gpu_results import FORMAT as GPU_FORMAT
from .gpu_results import check_gpu_json, from_gpu_json, is_gpu_json
from .results import FORMAT, Document, Results

_WRITTEN = "expected a file that `coda bench run --out` or `python -m benchmarks.gpu run` wrote"


def read_results(path: str | os.PathLike[str]) -> list[Results]:
    """Read results.json of `coda bench run`, or a gpu.json, which holds a result for each shape.

    Raises InputError that names the first thing that is wrong.
    """
    data = _parse(path)
    if is_gpu_json(data):
        return from_gpu_json(data, str(path))
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = describe(data.get("format") if isinstance(data, dict) else data)
        raise InputError(f"{path}: format: found {found}, expected {FORMAT!r} or {GPU_FORMAT!r}; {_WRITTEN}")
    return [Results.check(data, str(path))]


def read_gpu_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a gpu.json as it is. Raises InputError."""
    return check_gpu_json(_parse(path), str(path))


def _parse(path: str | os.PathLike[str]) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); {_WRITTEN}") from error
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); {_WRITTEN}, all of it") from error


def compare_files(a: Sequence[Results], b: Sequence[Results], threshold: float = 0.05) -> Comparison:
    """Compare what two files hold, tokenizer by tokenizer, as `compare` does; a tokenizer of one alone is missing."""
    if len(a) == 1 == len(b):
        return compare(a[0], b[0], threshold)
    pairs = list(_pairs(a, b))
    found = [compare(ours, theirs, threshold) for ours, theirs in pairs]
    return _merge(found, [_bundle(ours) for ours, _ in pairs], _file(a[0]), _file(b[0]))


def compare_cells_of_file(results: Sequence[Results], axis: str, threshold: float = 0.05) -> Comparison:
    """Compare the cells of each result of a file, as `compare_cells` does. Raises InputError where none can be."""
    if len(results) == 1:
        return compare_cells(results[0], axis, threshold)
    found, names, last = [], [], None
    for of in results:
        try:
            found.append(compare_cells(of, axis, threshold))
        except InputError as error:
            last = error
        else:
            names.append(_bundle(of))
    if not found and last is not None:
        raise last
    return _merge(found, names, _file(results[0]), _file(results[0]))


def _pairs(a: Sequence[Results], b: Sequence[Results]) -> Iterator[tuple[Results, Results]]:
    """Yield the results of one tokenizer from both; beside one that the other lacks stands an empty one."""
    left = list(b)
    for ours in a:
        theirs = next((of for of in left if share_a_tokenizer(ours, of)), None)
        if theirs is not None:
            left.remove(theirs)
        yield ours, theirs or _emptied(ours, b[0])
    for theirs in left:
        yield _emptied(theirs, a[0]), theirs


def _bundle(of: Results) -> str:
    return of.data["bundle"]["folder"]


def _file(of: Results) -> str:
    return of.file or of.source


def _emptied(of: Results, file: Results) -> Results:
    """Return what `file` says of the work of `of`: nothing, on its own machine."""
    data: Document = {
        **of.data,
        "machine": file.data["machine"],
        "coda_runtime": file.data["coda_runtime"],
        "cells": [],
    }
    return Results({**data, "noise": {**of.data["noise"], "warnings": []}}, _file(file))


def _merge(found: Sequence[Comparison], bundles: Sequence[str], a: str, b: str) -> Comparison:
    """Return one comparison of several, whose rows say which bundle they are of."""
    rows: list[Row] = []
    for name, of in zip(bundles, found, strict=True):
        rows += [replace(row, bundle=name) for row in of.rows]

    def texts(kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for of in found for text in getattr(of, kind)))

    work, differences, warnings = texts("other_work"), texts("differences"), texts("warnings")
    return Comparison(a, b, found[0].threshold, tuple(rows), work, differences, warnings)
