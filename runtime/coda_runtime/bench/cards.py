"""A chart of the report with what belongs to it: whose it is, its key, a sentence, and the table of what it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..report.markup import Markup, el, join, table
from .results import Measurement
from .series import Series

Rows = Sequence[tuple[str, Sequence[Measurement]]]
"""Measurements over the batch, each under the name of what they are of."""
Words = Callable[[Measurement], str]
Line = tuple[str, Sequence[Measurement], Words]
"""What stands in a line of a table over the batch: what it is, measurements, and how to write one."""


def card(
    title: str, of: Sequence[Series], chart: Markup, key: Markup, about: str, data: Markup, *, wide: bool = False
) -> Markup:
    """Return a chart `of` these series with its key, a sentence about it and its data; `wide` puts the data beside it.

    It names their bundles, so that it says what it shows wherever it is copied to.
    """
    below = el("p", about, class_="keys below")
    rows = scrolled(data, f"{title}: table")
    head = join(el("h3", title, class_="name"), whose(of))
    if not wide:
        return el("div", head, chart, key, below, rows, class_="card")
    beside = el("div", el("div", chart, key, below), rows, class_="pairs")
    return el("div", head, beside, class_="card wide")


def whose(of: Sequence[Series]) -> Markup:
    """Return the line that names the bundles of these series."""
    names = list(dict.fromkeys(one.bundle for one in of))
    return el("p", f"{'Bundle' if len(names) == 1 else 'Bundles'}: {', '.join(names)}", class_="of name")


def scrolled(data: Markup, label: str) -> Markup:
    """Return a table that is scrolled by itself where it is wider than its place."""
    return el("div", data, class_="scroll", tabindex=0, role="region", aria_label=label)


def named(shown: Sequence[tuple[Series, Sequence[Measurement]]]) -> Rows:
    """Return rows under the names of their series."""
    return [(one.name, found) for one, found in shown]


def by_batch(groups: Sequence[tuple[str, Sequence[Line]]], sizes: Sequence[int], corner: str) -> Markup:
    """Make a column for each batch, and under each name its lines; a dagger marks what was not warm.

    A line without words of its own has the name of its group.
    """
    cells: list[list[str]] = []
    cold = False
    for name, lines in groups:
        cells += [[name]] * any(what for what, _, _ in lines)
        for what, found, write in lines:
            cold = cold or not all(of["warm"] for of in found)
            there = {of["batch"]: write(of) + ("" if of["warm"] else " †") for of in found}
            cells.append([what or name, *(there.get(batch, "–") for batch in sizes)])
    note = el("p", "† The warm-up ended before the times were stable.", class_="keys below") if cold else ""
    return join(table([corner, *map(str, sizes)], cells), note)


def description(rows: Rows, words: Words) -> str:
    """Return in words what a chart over the batch shows."""
    return "; ".join(
        f"{name}: " + ", ".join(f"batch {of['batch']} {words(of)}" for of in found) for name, found in rows
    )
