"""HTML and SVG by nesting calls: text is escaped and every element closed, by construction."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

# Elements that have no end tag in HTML.
_VOID = frozenset({"meta", "img", "br"})


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


Child = str | Iterable[str]


def el(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Return one element. ``class_="x"`` is class, ``stroke_width=2`` is stroke-width; None and False leave it out.

    Children are strings (escaped unless `Markup`) or iterables of them.
    """
    head = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{head}>" if name in _VOID else f"<{head}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Join children side by side, without an element around them."""
    return Markup("".join(_text(child) for child in children))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table with a row of headings; the first cell of each row is its heading.

    A row of one cell is the heading of the rows below it.
    """
    return el(
        "table",
        el("thead", el("tr", [el("th", name, scope="col") for name in columns])),
        el("tbody", [el("tr", _cells(row, len(columns))) for row in rows]),
    )


def _cells(row: Sequence[str], columns: int) -> Markup:
    if len(row) == 1 < columns:
        return el("th", el("span", row[0]), class_="group", colspan=columns, scope="rowgroup")
    return join(el("th", row[0], scope="row"), [el("td", cell) for cell in row[1:]])


def _text(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    return html.escape(child) if isinstance(child, str) else "".join(map(_text, child))


def _value(value: object) -> str:
    # Coordinates to a tenth of a unit: more is noise in the file.
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
