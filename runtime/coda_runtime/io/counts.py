"""Counts in words: every "1 image" and "8 images" of a message, a table or a page."""

from __future__ import annotations

__all__ = ["count", "plural"]


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Format a count, as in "1 token" and "16,384 tokens"; `plural` is for nouns that take more than an s."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def plural(number: int, singular: str, several: str) -> str:
    """Return the word that goes with a count: `plural(n, "is", "are")`."""
    return singular if number == 1 else several
