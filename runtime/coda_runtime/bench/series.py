"""What the report draws: one series for each cell of each file, with its name, its bundle and its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..report.document import keys
from ..report.markup import Markup
from .differences import cell_name
from .operations import OPERATIONS
from .results import Cell, Measurement, Results

_COLOURS = 8


@dataclass(frozen=True)
class Series:
    """A cell that measured something. `style` is the CSS class of its colour, `bundle` names what it ran."""

    name: str
    bundle: str
    style: str
    cell: Cell

    def of(self, operation: str, scenario: str) -> list[Measurement]:
        """Return its measurements of an operation in a scenario, by ascending batch."""
        found = [of for of in self.cell["measurements"] if of["operation"] == operation and of["scenario"] == scenario]
        return sorted(found, key=lambda of: of["batch"])


def all_series(results: Sequence[Results]) -> list[Series]:
    """Return one series for each cell that measured something, in the order of the files."""
    names, bundles = file_names(results), bundle_names(results)
    if len(set(bundles)) > 1:
        names = [f"{name} ({bundle})" for name, bundle in zip(names, bundles, strict=True)]
    cells = [
        (f"{_title(cell)}, {name}" if len(results) > 1 else _title(cell), bundle, cell)
        for name, bundle, found in zip(names, bundles, results, strict=True)
        for cell in found.data["cells"]
        if cell["measurements"]
    ]
    return [
        Series(name, bundle, f"series c{index % _COLOURS + 1}", cell)
        for index, (name, bundle, cell) in enumerate(cells)
    ]


def _title(cell: Cell) -> str:
    """Return the title, with what "auto" became."""
    ran = ", ".join(dict.fromkeys(of["backend"] for of in cell["artifacts"]))
    return f"{cell_name(cell)} ({ran})" if cell["backend"] == "auto" and ran else cell_name(cell)


def file_names(results: Sequence[Results]) -> list[str]:
    """Return what to call each file: its name, or its path and position if two have the same."""
    short = [PurePath(found.source).name for found in results]
    if len(set(short)) == len(short):
        return short
    return [f"{found.source} ({index})" for index, found in enumerate(results, 1)]


def bundle_names(results: Sequence[Results]) -> list[str]:
    """Return what to call the bundle of each file: its folder, with as much of the path as tells it from the others.

    Two exports that lay in one folder are told apart by their manifests.
    """
    bundles = [found.data["bundle"] for found in results]
    names = [PurePath(bundle["folder"]).name or bundle["folder"] for bundle in bundles]
    wholes = [bundle["folder"] for bundle in bundles]
    sums = [bundle["manifest_sha256"] for bundle in bundles]
    if not _tell_apart(names, sums):
        names = wholes
    if not _tell_apart(names, sums):
        names = [f"{name} {sha256[:8]}" for name, sha256 in zip(names, sums, strict=True)]
    return names


def _tell_apart(names: Sequence[str], sums: Sequence[str]) -> bool:
    """Return whether no name stands for two checksums."""
    return len(set(zip(names, sums, strict=True))) == len(set(names))


def operations(series: Sequence[Series]) -> list[str]:
    """Return the operations that any of them measured, in the order of a request."""
    there = {of["operation"] for one in series for of in one.cell["measurements"]}
    return [name for name in OPERATIONS if name in there]


def batches(series: Sequence[Series], operation: str, scenario: str) -> list[int]:
    """Return the batch sizes that any of them has for it, ascending."""
    return sorted({of["batch"] for one in series for of in one.of(operation, scenario)})


def key_of(series: Sequence[Series], *more: tuple[str, str]) -> Markup:
    """Draw the key of a chart of these series."""
    return keys(*((one.name, one.style) for one in series), *more)
