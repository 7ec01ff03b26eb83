"""What a search for images left out: counted by kind, the first few of each by name.

Every finder fills one of these and every command tells it once, so that no image goes missing without a word.
"""

from __future__ import annotations

from typing import Any

from .counts import count
from .filenames import utf8_name
from .json_fields import describe

NAMED = 3
"""Of each kind as many are named."""


class Omitted:
    """Counts by kind. A kind is a suffix such as ".heic", or a noun in the singular such as "broken link"."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, list[str]]] = {}

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count a name, or `count` of them of which it is the first. What is not UTF-8 in it gets stand-ins."""
        before, first = self._kinds.get(kind, (0, []))
        if len(first) < NAMED:
            first = [*first, utf8_name(name)]
        self._kinds[kind] = (before + count, first)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __len__(self) -> int:
        return sum(count for count, _ in self._kinds.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{count(number, _noun(kind))} ({', '.join(first)}{', ...' if number > len(first) else ''})"
            for kind, (number, first) in sorted(self._kinds.items())
        )

    def warning(self, where: object) -> str:
        """Return one line for whoever named `where`; empty where nothing was left out."""
        from .image_files import expected_suffixes

        if not self:
            return ""
        return f"left out of {where}: {self}; what is read are files ending in {expected_suffixes()}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data: {kind: {"count", "first"}}."""
        return {kind: {"count": count, "first": first} for kind, (count, first) in sorted(self._kinds.items())}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Omitted:
        """Return what `to_json` gave. Raises KeyError, TypeError, ValueError."""
        out = cls()
        out.update(data)
        return out

    def update(self, data: dict[str, Any]) -> None:
        """Add what another's `to_json` gave. Raises KeyError, TypeError, ValueError."""
        if not isinstance(data, dict):
            raise TypeError(f"omitted is {describe(data)}, expected an object")
        for kind, told in data.items():
            before, first = self._kinds.get(str(kind), (0, []))
            self._kinds[str(kind)] = (before + int(told["count"]), [*first, *map(str, told["first"])][:NAMED])


def _noun(kind: str) -> str:
    return f"{kind} file" if kind.startswith(".") else kind
