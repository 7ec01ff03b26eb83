"""The pages of the project, and what stands in their blocks: commands, Python, listings."""

from __future__ import annotations

import ast
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.generator.markdown import PROGRAMS

ROOT = Path(__file__).parents[2]
# What a clone does not hold, and test data, whose pages show nothing to type.
_LEFT_OUT = {"demo", "dist", "build", "node_modules", "site", "tests"}
_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"\s+#(?![^'\"]*['\"]\s*$)\s.*$")


@dataclass(frozen=True)
class Line:
    """What is typed: a command with its continuation lines, or a block of Python; `number` is its line in the page."""

    page: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def pages() -> list[Path]:
    """Every Markdown page, in whatever folder."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        # Caches and virtual environments, whatever they are called, bring the pages of others.
        here = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
        folders[:] = [name for name in here if not Path(folder, name, "pyvenv.cfg").exists()]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


def commands(page: Path) -> list[Line]:
    """What a reader of the page types into a shell, without comments."""
    found = []
    for number, kind, text in _blocks(page):
        first = text.split(maxsplit=1)[0]
        if kind in ("sh", "bash", "console") or (not kind and (first in PROGRAMS or "=" in first)):
            found += [Line(page, number + offset, line) for offset, line in _joined(text)]
    return found


def python(page: Path) -> list[Line]:
    """The page's blocks of Python."""
    found = []
    for number, kind, text in _blocks(page):
        if kind == "python" or (not kind and text.startswith(("import ", "from ")) and _parses(text)):
            found.append(Line(page, number, text))
    return found


def _blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """(line, language or "", text) of each fenced block, and of each paragraph of an indented one."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fence: tuple[int, str] | None = None
    indented: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if fence is not None:
            if line.startswith("```"):
                yield fence[0] + 1, fence[1], "\n".join(lines[fence[0] : number - 1])
                fence = None
            continue
        if found := _FENCE.match(line):
            fence = (number, found[1])
        if line.startswith("    ") and (indented or not lines[number - 2].strip()):
            indented.append(line)
        elif indented:
            yield number - len(indented), "", textwrap.dedent("\n".join(indented))
            indented = []


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """(offset, command): continuation lines and here-documents belong to the line that begins them."""
    begun: list[str] = []
    end: str | None = None
    start = 0
    for offset, line in enumerate(text.splitlines()):
        if not begun:
            start = offset
        begun.append(line if end else _COMMENT.sub("", line))
        if end is None and (found := re.search(r"<<'(\w+)'", line)):
            end = found[1]
        if end is not None and line.strip() != end:
            continue
        if end is None and (begun[-1].endswith(("\\", "|")) or not begun[-1].strip()):
            continue
        yield start, "\n".join(begun).strip() if end else "\n".join(begun).replace("\\\n", " ").strip()
        begun, end = [], None


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
