"""Columns of text: on a terminal no wider than it is, in a pipe one line for each row whatever is in it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import click

__all__ = ["footnote", "printable", "table"]

_GAP = "  "
_LEAST = 8
"""Cells that a column is not narrowed under; where that is too much for the terminal, each row becomes a list."""
_ALIGNED = 40
"""Cells of the longest text in a pipe that others are aligned to: a longer one sticks out."""
_PIECES = re.compile(r"\s+|[^\s/_,;-]*[/_,;-]+|[^\s/_,;-]+")


def printable(text: object) -> str:
    """Return text that is safe on a terminal: control characters, as in text from a file, become U+FFFD."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in str(text))


def table(rows: Sequence[Sequence[object]], *, columns: Sequence[str] = ()) -> None:
    """Print aligned columns on stdout. None is empty.

    On a terminal long cells are broken into lines; where the columns would still not fit, each row is printed as a list
    of its cells. In a pipe nothing is broken or cut, and a row is one line.
    """
    for line in layout(rows, columns, _width()):
        click.echo(line)


def footnote(text: str) -> None:
    """Print what a table's reader has to know: in lines of the terminal's width, in a pipe as one."""
    width = _width()
    for line in [printable(text)] if width is None else _broken(printable(text), max(width, _LEAST)):
        click.echo(line)


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def layout(rows: Sequence[Sequence[object]], columns: Sequence[str], width: int | None) -> list[str]:
    """Return the lines of a table in `width` cells, None for a pipe; lines have no space at their ends."""
    number = max([len(columns), *map(len, rows)])
    texts = [["" if cell is None else " ".join(printable(cell).split("\n")) for cell in row] for row in rows]
    grid = [row + [""] * (number - len(row)) for row in ([list(columns)] if columns else []) + texts]
    widest = [max(_cells(row[index]) for row in grid) for index in range(number)]
    if width is None:
        return [_line(row, [min(cells, _ALIGNED) for cells in widest]) for row in grid]
    widths = _narrowed(widest, width - len(_GAP) * (number - 1))
    if widths is None:
        return list(_lists(texts, columns, width))
    return [
        _line(pieces, widths)
        for row in grid
        for pieces in zip_longest(
            *(_broken(text, cells) for text, cells in zip(row, widths, strict=True)), fillvalue=""
        )
    ]


def _narrowed(widest: Sequence[int], room: int) -> list[int] | None:
    """Return widths that fit, the widest columns narrowed to one width; None where that is too narrow to read."""
    if sum(widest) <= room:
        return list(widest)
    for limit in range(max(widest), _LEAST - 1, -1):
        widths = [min(cells, limit) for cells in widest]
        if (spare := room - sum(widths)) >= 0:
            # What one step less would have left over goes to the first of those that were narrowed.
            first = next(index for index, cells in enumerate(widest) if cells > limit)
            widths[first] = min(widest[first], limit + spare)
            return widths
    return None


def _lists(rows: Sequence[Sequence[str]], columns: Sequence[str], width: int) -> Iterator[str]:
    for row in rows:
        first, *others = [(name, text) for name, text in zip_longest(columns, row, fillvalue="") if text] or [("", "")]
        yield from _broken(first[1], width)
        for name, text in others:
            pieces = _broken(f"{name}: {text}" if name else text, max(width - len(_GAP), _LEAST))
            yield from (_GAP + piece for piece in pieces)


def _broken(text: str, cells: int) -> list[str]:
    """Break text into lines: between words, behind a slash or a hyphen, or where there is neither anywhere."""
    from rich.cells import chop_cells

    lines, line = [], ""
    for piece in _PIECES.findall(text):
        if _cells((line + piece).rstrip()) <= cells:
            line += piece
            continue
        if line.strip():
            lines.append(line.rstrip())
        *whole, line = chop_cells(piece.lstrip(), cells) or [""]
        lines += whole
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (text + " " * (cells - _cells(text)) for text, cells in zip(row, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _cells(text: str) -> int:
    """Return the cells of a terminal that text takes: two for a character of East Asia."""
    from rich.cells import cell_len

    return cell_len(text)
