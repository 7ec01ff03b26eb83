"""The sample tokenizer that ships with the package, and the recipe it was made by."""

from __future__ import annotations

from pathlib import Path


def tokenizer_path() -> Path:
    """Return the tokenizer folder; MODEL_CARD.md in it says what it is, what it learned from and how good it is."""
    return Path(__file__).parent / "tokenizer"
