"""What is done to the text of a page: code that has no fence gets one, and links are given other targets."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator

# The first words of what a reader types into a shell.
PROGRAMS = (
    "coda",
    "curl",
    "docker",
    "for",
    "git",
    "hf",
    "make",
    "mkdir",
    "pip",
    "pytest",
    "python",
    "split",
    "torchrun",
)

_FENCE = re.compile(r"^\s*```")
_LIST = re.compile(r"^([-*+]|\d+\.)\s")
# A code span, which is left as it is, or the target of a link or image.
_LINK = re.compile(r"(?P<code>(`+)(?:(?!\2).)+\2)|\]\((?P<target>[^)\s]+)\)", re.DOTALL)


def relinked(text: str, other: Callable[[str], str]) -> str:
    """Return a page with the target of each link changed by `other`; code is left alone."""
    parts = []
    for is_code, part in _parts(text):
        parts.append(part if is_code else _LINK.sub(lambda found: _changed(found, other), part))
    return "".join(parts)


def fenced(text: str) -> str:
    """Return a page whose indented blocks are fenced, with the language that a highlighter needs."""
    out: list[str] = []
    block: list[str] = []
    in_list = in_fence = False
    for line in [*text.splitlines(), ""]:
        if _FENCE.match(line):
            in_fence = not in_fence
        if block and line.strip() and not line.startswith("    "):
            out += _fence(block)
            block = []
        begins = line.startswith("    ") and not (in_fence or in_list) and (not out or not out[-1].strip())
        if begins or (block and (line.startswith("    ") or not line.strip())):
            block.append(line)
        else:
            if line.strip() and not line.startswith(" "):
                in_list = _LIST.match(line) is not None
            out.append(line)
    return "\n".join([*out, *(_fence(block) if block else [])]).rstrip("\n") + "\n"


def _changed(found: re.Match[str], other: Callable[[str], str]) -> str:
    target = found["target"]
    return found[0] if target is None else f"]({other(target)})"


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is a fenced or indented block, text) of a page, one after the other."""
    kept: list[str] = []
    kept_code = in_fence = False
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line) is not None
        is_code = in_fence or mark or (line.startswith("    ") and (kept_code or not kept or not kept[-1].strip()))
        if is_code != kept_code and kept:
            yield kept_code, "".join(kept)
            kept = []
        kept_code = is_code
        kept.append(line)
        in_fence ^= mark
    yield kept_code, "".join(kept)


def _fence(block: list[str]) -> list[str]:
    lines = textwrap.dedent("\n".join(block)).strip("\n").splitlines()
    after = len(block) - len("\n".join(block).rstrip("\n").splitlines())
    return [f"```{_language(lines)}", *lines, "```", *[""] * max(after, 1)]


def _language(lines: list[str]) -> str:
    first = lines[0].split(maxsplit=1)[0]
    if first in PROGRAMS or re.match(r"[A-Z_]+=", first):
        return "sh"
    return "python" if first in ("import", "from") else "text"
